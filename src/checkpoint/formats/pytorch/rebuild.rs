//! Which calls in a pickle stand for a tensor or array, and which of their arguments say
//! what it is. Looks at names and arguments only; reads no elements.

use crate::checkpoint::formats::element_type;
use crate::checkpoint::formats::pytorch::storage;
use crate::checkpoint::formats::pytorch::value::{Id, Object, Pickle, Value};

/// Calls inside each other that are followed to a tensor.
const NESTING_LIMIT: usize = 64;

/// A value that stands for a tensor.
pub(super) enum Rebuild {
    Dense(Dense),
    /// The tensor is another value.
    Wrapped(Id),
    /// A storage by itself.
    Storage(Id),
    Array(Array),
    /// One without elements in the file: its type and shape, and the reason.
    Named {
        dtype: Option<Id>,
        shape: Option<Id>,
        why: String,
    },
    /// One whose class keeps its elements in other tensors, which are its attributes.
    InParts {
        class: String,
        dtype: Id,
        shape: Id,
    },
    Quantized {
        storage: Id,
        shape: Id,
        scheme: String,
    },
    Sparse {
        layout: String,
        values: Option<Id>,
        shape: Id,
    },
    Nested {
        values: Option<Id>,
    },
}

/// A view of a storage.
pub(super) struct Dense {
    pub storage: Id,
    pub offset: Id,
    pub shape: Id,
    pub strides: Id,
    /// The type of the elements, where the storage has none.
    pub dtype: Option<Id>,
    pub metadata: Option<Id>,
}

/// A NumPy array.
pub(super) struct Array {
    pub shape: Id,
    pub dtype: Id,
    pub order: ArrayOrder,
    pub data: Id,
}

pub(super) enum ArrayOrder {
    /// A flag that says whether it is column-major.
    Fortran(Id),
    /// `'C'` or `'F'`.
    Letter(Id),
}

/// What a tensor is rebuilt from, whatever it is wrapped in; `None` for a value that is no
/// tensor.
pub(super) fn rebuild(pickle: &Pickle, id: Id) -> Option<Rebuild> {
    let mut id = id;
    for _ in 0..NESTING_LIMIT {
        match step(pickle, id)? {
            Rebuild::Wrapped(inner) => id = inner,
            rebuild => return Some(rebuild),
        }
    }
    None
}

/// The same, one call deep.
fn step(pickle: &Pickle, id: Id) -> Option<Rebuild> {
    match pickle.value(id) {
        Value::Persistent(inner) => {
            storage::described(pickle, *inner).map(|_| Rebuild::Storage(id))
        }
        Value::Object(object) => called(pickle, id, object),
        _ => None,
    }
}

fn called(pickle: &Pickle, id: Id, object: &Object) -> Option<Rebuild> {
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

fn wrapped(arguments: &[Id]) -> Option<Rebuild> {
    arguments.first().map(|&first| Rebuild::Wrapped(first))
}

fn of_utils(pickle: &Pickle, name: &str, arguments: &[Id]) -> Option<Rebuild> {
    let unfit = || {
        let why = format!("the arguments of {name} are not those it takes");
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
                _ => return unfit(),
            };
            Some(Rebuild::Sparse { layout, values: Some(values), shape })
        }
        ("_rebuild_sparse_csr_tensor", &[layout, data]) => {
            let &[_, _, values, shape] = pickle.items(data)? else { return unfit() };
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
        ) => unfit(),
        _ => None,
    }
}

/// `(function, class, arguments, state)`: a tensor with attributes or of a class of its own.
fn from_type(pickle: &Pickle, arguments: &[Id]) -> Option<Rebuild> {
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

fn layout_name(pickle: &Pickle, id: Id) -> String {
    let name = match pickle.value(id) {
        Value::Global(global) => Some(global.1.as_str()),
        Value::Object(object) => object.arguments.first().and_then(|&name| pickle.text(name)),
        _ => None,
    };
    name.unwrap_or("unknown layout").trim_start_matches("torch.").to_owned()
}

/// The state of an array: version, shape, type, order, data; the first may be missing.
fn reconstructed(pickle: &Pickle, state: Id) -> Option<Rebuild> {
    let (shape, dtype, fortran, data) = match *pickle.items(state)? {
        [_, shape, dtype, fortran, data] | [shape, dtype, fortran, data] => {
            (shape, dtype, fortran, data)
        }
        _ => return None,
    };
    let order = ArrayOrder::Fortran(fortran);
    Some(Rebuild::Array(Array { shape, dtype, order, data }))
}
