//! Recognizes the calls in a pickle that create a tensor or array, and finds the arguments that
//! describe it. Uses names and arguments only and reads no elements.

use crate::checkpoint::formats::element_type;
use crate::checkpoint::formats::pytorch::storage;
use crate::checkpoint::formats::pytorch::value::{Object, Pickle, Value, ValueId};

/// Maximum nesting depth of calls around a tensor.
const NESTING_LIMIT: usize = 64;

/// A description of how a tensor is created.
pub(super) enum Rebuild {
    Dense(Dense),
    /// The tensor is another value.
    Wrapped(ValueId),
    /// A storage by itself.
    Storage(ValueId),
    Array(Array),
    /// A tensor without elements in the file: its type, shape and the reason.
    Named {
        dtype: Option<ValueId>,
        shape: Option<ValueId>,
        why: String,
    },
    /// A tensor whose class keeps its elements in other tensors, which are its attributes.
    InParts {
        class: String,
        dtype: ValueId,
        shape: ValueId,
    },
    Quantized {
        storage: ValueId,
        shape: ValueId,
        scheme: String,
    },
    Sparse {
        layout: String,
        values: Option<ValueId>,
        shape: ValueId,
    },
    Nested {
        values: Option<ValueId>,
    },
}

/// A strided view of a storage.
pub(super) struct Dense {
    pub storage: ValueId,
    pub offset: ValueId,
    pub shape: ValueId,
    pub strides: ValueId,
    /// The element type, if the storage has none.
    pub dtype: Option<ValueId>,
    pub metadata: Option<ValueId>,
}

/// A NumPy array.
pub(super) struct Array {
    pub shape: ValueId,
    pub dtype: ValueId,
    pub order: ArrayOrder,
    pub data: ValueId,
}

pub(super) enum ArrayOrder {
    /// A flag that says whether the array is column-major.
    Fortran(ValueId),
    /// `'C'` or `'F'`.
    Letter(ValueId),
}

/// Returns how a tensor is created, ignoring wrappers. `None` for a value that is not a tensor.
pub(super) fn rebuild(pickle: &Pickle, id: ValueId) -> Option<Rebuild> {
    let mut id = id;
    for _ in 0..NESTING_LIMIT {
        match step(pickle, id)? {
            Rebuild::Wrapped(inner) => id = inner,
            rebuild => return Some(rebuild),
        }
    }
    None
}

/// Does the same for one level of calls.
fn step(pickle: &Pickle, id: ValueId) -> Option<Rebuild> {
    match pickle.value(id) {
        Value::Persistent(inner) => {
            storage::described(pickle, *inner).map(|_| Rebuild::Storage(id))
        }
        Value::Object(object) => called(pickle, id, object),
        _ => None,
    }
}

fn called(pickle: &Pickle, id: ValueId, object: &Object) -> Option<Rebuild> {
    let (module, name) = pickle.global(object.callee)?;
    let state = object.states.last().copied();
    let arguments = &*object.arguments;
    match module {
        "torch._utils" => of_utils(pickle, name, arguments),
        "torch._tensor" if name == "_rebuild_from_type_v2" || name == "_rebuild_from_type" => {
            from_type(pickle, arguments)
        }
        "torch.storage" if name == "_load_from_bytes" && arguments.len() == 1 => {
            Some(Rebuild::Storage(id))
        }
        "torch.nn.parameter"
            if name == "UninitializedParameter" || name == "UninitializedBuffer" =>
        {
            let why = format!("it is a parameter without values ({name})");
            Some(Rebuild::Named { dtype: None, shape: None, why })
        }
        "torch.nn.parameter" | "torch.nn" if matches!(name, "Parameter" | "Buffer") => {
            wrapped(arguments)
        }
        "torch.autograd" | "torch.autograd.variable" if name == "Variable" => wrapped(arguments),
        "torch" | "torch.cuda" => {
            element_type::of_tensor_class(name)?;
            // The state of a tensor as PyTorch 0.1 pickled it.
            let &[storage, offset, shape, strides] = pickle.items(state?)? else { return None };
            let (dtype, metadata) = (None, None);
            Some(Rebuild::Dense(Dense { storage, offset, shape, strides, dtype, metadata }))
        }
        "numpy.core.multiarray" | "numpy._core.multiarray" if name == "_reconstruct" => {
            reconstructed(pickle, state?)
        }
        "numpy.core.numeric" | "numpy._core.numeric" if name == "_frombuffer" => {
            let &[data, dtype, shape, order] = arguments else { return None };
            let order = ArrayOrder::Letter(order);
            Some(Rebuild::Array(Array { shape, dtype, order, data }))
        }
        _ => None,
    }
}

fn wrapped(arguments: &[ValueId]) -> Option<Rebuild> {
    arguments.first().map(|&first| Rebuild::Wrapped(first))
}

fn of_utils(pickle: &Pickle, name: &str, arguments: &[ValueId]) -> Option<Rebuild> {
    let invalid = || {
        let why = format!("the arguments of {name} have an unexpected form");
        Some(Rebuild::Named { dtype: None, shape: None, why })
    };
    match (name, arguments) {
        ("_rebuild_tensor", &[storage, offset, shape, strides]) => {
            let (dtype, metadata) = (None, None);
            Some(Rebuild::Dense(Dense { storage, offset, shape, strides, dtype, metadata }))
        }
        ("_rebuild_tensor_v2", &[storage, offset, shape, strides, _, _, ref rest @ ..]) => {
            let (dtype, metadata) = (None, rest.first().copied());
            Some(Rebuild::Dense(Dense { storage, offset, shape, strides, dtype, metadata }))
        }
        ("_rebuild_tensor_v3", &[storage, offset, shape, strides, _, _, dtype, ref rest @ ..]) => {
            let (dtype, metadata) = (Some(dtype), rest.first().copied());
            Some(Rebuild::Dense(Dense { storage, offset, shape, strides, dtype, metadata }))
        }
        ("_rebuild_qtensor", &[storage, _, shape, _, parameters, ..]) => {
            let scheme = pickle.items(parameters).and_then(|p| pickle.global(*p.first()?));
            let scheme = scheme.map_or("unknown scheme", |(_, name)| name).to_owned();
            Some(Rebuild::Quantized { storage, shape, scheme })
        }
        ("_rebuild_sparse_tensor", &[layout, data]) => {
            let layout = layout_name(pickle, layout);
            let parts = pickle.items(data).unwrap_or_default();
            // Indices come first and a flag may come last.
            let (values, shape) = match *parts {
                [_, values, shape] | [_, values, shape, _] if layout == "sparse_coo" => {
                    (values, shape)
                }
                [_, _, values, shape] => (values, shape),
                _ => return invalid(),
            };
            Some(Rebuild::Sparse { layout, values: Some(values), shape })
        }
        ("_rebuild_sparse_csr_tensor", &[layout, data]) => {
            let &[_, _, values, shape] = pickle.items(data)? else { return invalid() };
            let layout = layout_name(pickle, layout);
            Some(Rebuild::Sparse { layout, values: Some(values), shape })
        }
        ("_rebuild_nested_tensor", &[values, ..]) => Some(Rebuild::Nested { values: Some(values) }),
        ("_rebuild_meta_tensor_no_storage", &[dtype, shape, ..]) => {
            let why = "it is a meta tensor: the file holds no values of it".to_owned();
            Some(Rebuild::Named { dtype: Some(dtype), shape: Some(shape), why })
        }
        ("_rebuild_wrapper_subclass", &[class, dtype, shape, ..]) => {
            let (module, name) = pickle.global(class).unwrap_or(("an unknown", "class"));
            Some(Rebuild::InParts { class: format!("{module}.{name}"), dtype, shape })
        }
        ("_rebuild_parameter" | "_rebuild_parameter_with_state", _) => wrapped(arguments),
        (
            "_rebuild_device_tensor_from_numpy"
            | "_rebuild_device_tensor_from_cpu_tensor"
            | "_rebuild_xla_tensor",
            _,
        ) => wrapped(arguments),
        (
            "_rebuild_tensor"
            | "_rebuild_tensor_v2"
            | "_rebuild_tensor_v3"
            | "_rebuild_qtensor"
            | "_rebuild_sparse_tensor"
            | "_rebuild_meta_tensor_no_storage"
            | "_rebuild_wrapper_subclass",
            _,
        ) => invalid(),
        _ => None,
    }
}

/// Parses `(function, class, arguments, state)`: a tensor with attributes or of a subclass.
fn from_type(pickle: &Pickle, arguments: &[ValueId]) -> Option<Rebuild> {
    let &[function, _, inner, ..] = arguments else { return None };
    let Value::Tuple(inner) = pickle.value(inner) else { return None };
    match pickle.global(function)? {
        ("torch._utils", name) => of_utils(pickle, name, inner),
        ("torch.nested._internal.nested_tensor", "_rebuild_njt") => {
            let values = inner.first().and_then(|&parts| pickle.get(parts, "values"));
            Some(Rebuild::Nested { values })
        }
        _ => None,
    }
}

fn layout_name(pickle: &Pickle, id: ValueId) -> String {
    let name = match pickle.value(id) {
        Value::Global(global) => Some(global.1.as_str()),
        Value::Object(object) => object.arguments.first().and_then(|&name| pickle.text(name)),
        _ => None,
    };
    name.unwrap_or("unknown layout").trim_start_matches("torch.").to_owned()
}

/// Parses the state of an array: version (optional), shape, type, order, data.
fn reconstructed(pickle: &Pickle, state: ValueId) -> Option<Rebuild> {
    let (shape, dtype, fortran, data) = match *pickle.items(state)? {
        [_, shape, dtype, fortran, data] | [shape, dtype, fortran, data] => {
            (shape, dtype, fortran, data)
        }
        _ => return None,
    };
    let order = ArrayOrder::Fortran(fortran);
    Some(Rebuild::Array(Array { shape, dtype, order, data }))
}
