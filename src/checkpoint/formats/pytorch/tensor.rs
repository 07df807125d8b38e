//! Finds the tensors and arrays among the values of a pickle and locates their elements.

use crate::checkpoint::formats::element_type::{self, ElementType, LazyBits};
use crate::checkpoint::formats::pytorch::array;
use crate::checkpoint::formats::pytorch::legacy;
use crate::checkpoint::formats::pytorch::payload::Payloads;
use crate::checkpoint::formats::pytorch::rebuild::{Dense, Rebuild, rebuild};
use crate::checkpoint::formats::pytorch::storage::{self, Storage, StorageType};
use crate::checkpoint::formats::pytorch::value::{Pickle, Value, ValueId};
use crate::checkpoint::formats::region::Region;
use crate::checkpoint::formats::row::Row;
use crate::checkpoint::io::source::Source;
use crate::checkpoint::strided::StridedView;
use crate::tensor::{DType, Shape};
use std::cell::RefCell;
use std::collections::HashMap;

/// Maximum bytes read of a file embedded in a pickle.
const NESTED_LIMIT: u64 = 64 << 20;

/// Finds a storage's bytes by its key, or gives the reason why there are none.
pub(super) type FindStorage<'a> = dyn Fn(&str) -> Result<Region, String> + 'a;

/// The context needed to locate the tensors of one pickle.
pub(super) struct Locator<'a> {
    pub source: &'a Source,
    pub pickle: &'a Pickle,
    pub find: &'a FindStorage<'a>,
    pub big_endian: bool,
    payloads: Payloads<'a>,
    #[allow(clippy::type_complexity, reason = "used once")]
    nested: RefCell<HashMap<ValueId, Result<(Storage, Region), String>>>,
}

impl<'a> Locator<'a> {
    pub(super) fn new(
        source: &'a Source,
        pickle: &'a Pickle,
        find: &'a FindStorage<'a>,
        big_endian: bool,
    ) -> Locator<'a> {
        let payloads = Payloads::new(source, pickle);
        Locator { source, pickle, find, big_endian, payloads, nested: RefCell::default() }
    }

    /// Returns the row of a tensor, array or storage; `None` for other values.
    pub(super) fn row(&self, id: ValueId) -> Option<Row> {
        Some(match rebuild(self.pickle, id)? {
            // `rebuild` has resolved wrappers.
            Rebuild::Wrapped(_) => return None,
            Rebuild::Dense(arguments) => self.dense(&arguments),
            Rebuild::Storage(id) => self.storage_alone(id),
            Rebuild::Array(described) => array::row(self.pickle, &self.payloads, &described),
            Rebuild::Named { dtype, shape, why } => {
                let element = dtype.and_then(|id| self.dtype(id));
                let shape = shape.and_then(|id| self.shape(id));
                Row::unreadable(element.map(|e| e.dtype), shape, why)
            }
            Rebuild::InParts { class, dtype, shape } => {
                let element = self.dtype(dtype);
                let why = format!(
                    "it is a tensor of the class {class}, which keeps its elements in several tensors"
                );
                Row::unreadable(element.map(|e| e.dtype), self.shape(shape), why)
            }
            Rebuild::Quantized { storage, shape, scheme } => {
                let element = match self.located(storage) {
                    Ok((Storage { element: StorageType::Typed(element), .. }, _)) => {
                        Some(element.dtype)
                    }
                    _ => None,
                };
                let why = format!("it is a quantized tensor of PyTorch ({scheme})");
                Row::unreadable(element, self.shape(shape), why)
            }
            Rebuild::Sparse { layout, values, shape } => {
                let values = values.and_then(|id| self.inner_dtype(id));
                let why = format!("it is a sparse tensor ({layout})");
                Row::unreadable(values, self.shape(shape), why)
            }
            Rebuild::Nested { values } => {
                let values = values.and_then(|id| self.inner_dtype(id));
                Row::unreadable(values, None, "it is a nested tensor")
            }
        })
    }

    /// Returns the type of the tensor that holds the values of a sparse or nested tensor.
    fn inner_dtype(&self, id: ValueId) -> Option<DType> {
        match rebuild(self.pickle, id)? {
            Rebuild::Dense(arguments) => Some(self.dense(&arguments).dtype),
            _ => None,
        }
    }

    fn dtype(&self, id: ValueId) -> Option<ElementType> {
        match self.pickle.global(id)? {
            ("torch", name) => element_type::torch(name),
            _ => None,
        }
    }

    fn shape(&self, id: ValueId) -> Option<Shape> {
        Shape::new(self.pickle.numbers(id)?.as_slice())
    }

    /// Returns a storage and its bytes.
    fn located(&self, id: ValueId) -> Result<(Storage, Region), String> {
        match self.pickle.value(id) {
            Value::Persistent(inner) => {
                let storage = storage::described(self.pickle, *inner);
                let storage = storage.ok_or("its storage is described in an unknown form")?;
                let region = (self.find)(&storage.key)?;
                Ok((storage, region))
            }
            Value::Object(_) => {
                if let Some(known) = self.nested.borrow().get(&id) {
                    return known.clone();
                }
                let found = self.nested_storage(id);
                self.nested.borrow_mut().insert(id, found.clone());
                found
            }
            _ => Err("its storage is described in an unknown form".to_owned()),
        }
    }

    /// Returns a storage that `pickle.dump` wrote: its bytes are a file in the legacy format.
    fn nested_storage(&self, id: ValueId) -> Result<(Storage, Region), String> {
        let unknown = || "its storage is described in an unknown form".to_owned();
        let Value::Object(object) = self.pickle.value(id) else { return Err(unknown()) };
        let &[bytes] = &*object.arguments else { return Err(unknown()) };
        let region = self.payloads.region(bytes)?;
        let file = legacy::open(self.source, &region, NESTED_LIMIT);
        let file = file.map_err(|e| format!("its storage cannot be read: {}", e.problem))?;
        let Value::Persistent(inner) = file.pickle.root() else { return Err(unknown()) };
        let storage = storage::described(&file.pickle, *inner).ok_or_else(unknown)?;
        let region = file.storages.get(&storage.key).cloned();
        Ok((storage, region.ok_or("its storage is not in the file")?))
    }

    /// Returns the row of a tensor given by storage, offset, shape and strides.
    fn dense(&self, arguments: &Dense) -> Row {
        let shape = self.shape(arguments.shape);
        let located = self.located(arguments.storage);
        let named = arguments.dtype.map(|id| self.dtype(id));
        let element = match (named, &located) {
            (Some(Some(element)), _) => Ok(element),
            (Some(None), _) => Err("its element type is unknown".to_owned()),
            (None, Ok((Storage { element: StorageType::Typed(element), .. }, _))) => {
                Ok(element.clone())
            }
            (None, Ok((Storage { element: StorageType::Unknown(class), .. }, _))) => {
                Err(format!("the type of its storage, '{}', is unknown", class.escape_debug()))
            }
            (None, Ok(_)) => Err("its storage does not give an element type".to_owned()),
            (None, Err(why)) => Err(why.clone()),
        };
        let dtype = element.as_ref().ok().map(|element| element.dtype.clone());
        match self.viewed(arguments, element, shape.clone(), located) {
            Ok(row) => row,
            Err(why) => Row::unreadable(dtype, shape, why),
        }
    }

    fn viewed(
        &self,
        arguments: &Dense,
        element: Result<ElementType, String>,
        shape: Option<Shape>,
        located: Result<(Storage, Region), String>,
    ) -> Result<Row, String> {
        let (storage, region) = located?;
        let element = element?;
        let shape = shape.ok_or("its shape is not a list of sizes, or has too many elements")?;
        let strides = self.pickle.numbers(arguments.strides);
        let strides = strides.ok_or("its strides are not a list of non-negative numbers")?;
        let offset = self.pickle.number(arguments.offset);
        let offset = offset.ok_or("its offset is not a non-negative number")?;
        let bits = self.lazy_bits(arguments.metadata)?;
        let conversion = element.conversion(self.big_endian, bits)?;
        let region = checked(&storage, region)?;
        let offset = offset.saturating_add(storage.offset);
        let view = StridedView::new(shape.clone(), element.size, offset, &strides, region.length)?;
        Ok(Row::readable(&element, shape, &region, view, conversion))
    }

    /// Parses the flags in a tensor's metadata, `{'neg': True}`.
    fn lazy_bits(&self, metadata: Option<ValueId>) -> Result<LazyBits, String> {
        let mut bits = LazyBits::default();
        let Some(Value::Dict(pairs)) = metadata.map(|id| self.pickle.value(id)) else {
            return Ok(bits);
        };
        for &(key, value) in pairs {
            let set = self.pickle.flag(value);
            match self.pickle.text(key) {
                Some("neg") => bits.negative = set == Some(true),
                Some("conj") => bits.conjugate = set == Some(true),
                _ if set == Some(false) => {}
                key => {
                    let key = key.unwrap_or_default().escape_debug();
                    return Err(format!("its tensor metadata '{key}' is unknown"));
                }
            }
        }
        Ok(bits)
    }

    /// Returns the row of a storage that is not part of a tensor: a vector.
    fn storage_alone(&self, id: ValueId) -> Row {
        let (storage, region) = match self.located(id) {
            Ok(located) => located,
            Err(why) => return Row::unreadable(None, None, why),
        };
        let element = match &storage.element {
            StorageType::Typed(element) => Some(element.clone()),
            StorageType::Bytes => element_type::torch("uint8"),
            StorageType::Unknown(_) => None,
        };
        let shape = Shape::vector(storage.elements);
        let Some(element) = element else {
            let why = "the type of its storage is unknown";
            return Row::unreadable(None, Some(shape), why);
        };
        let row = checked(&storage, region).and_then(|region| {
            let conversion = element.conversion(self.big_endian, LazyBits::default())?;
            let offset = storage.offset;
            let view = StridedView::new(shape.clone(), element.size, offset, &[1], region.length)?;
            Ok(Row::readable(&element, shape.clone(), &region, view, conversion))
        });
        row.unwrap_or_else(|why| Row::unreadable(Some(element.dtype), Some(shape), why))
    }
}

/// Checks that the file has as many bytes as the storage claims.
fn checked(storage: &Storage, region: Region) -> Result<Region, String> {
    let Some(size) = storage.element.size() else { return Ok(region) };
    match storage.elements.checked_mul(size) {
        Some(bytes) if bytes <= region.length => Ok(region),
        _ => Err(format!(
            "its storage claims {} elements of {size} bytes, the file has {} bytes",
            storage.elements, region.length
        )),
    }
}
