//! NumPy arrays inside a pickle.

use crate::checkpoint::formats::element_type::{self, LazyBits};
use crate::checkpoint::formats::numpy::{ArrayType, array_type};
use crate::checkpoint::formats::pytorch::payload::Payloads;
use crate::checkpoint::formats::pytorch::rebuild::{Array, ArrayOrder};
use crate::checkpoint::formats::pytorch::value::{Pickle, Value, ValueId};
use crate::checkpoint::formats::row::Row;
use crate::checkpoint::strided::StridedView;
use crate::tensor::{DType, Shape};

/// Returns the row of an array.
pub(super) fn row(pickle: &Pickle, payloads: &Payloads, array: &Array) -> Row {
    let shape = pickle.numbers(array.shape).and_then(|dims| Shape::new(dims.as_slice()));
    let (element, big_endian) = match described_type(pickle, payloads, array.dtype) {
        Some(ArrayType::Numbers { element, big_endian }) => (element, big_endian),
        Some(ArrayType::Other { name, what }) => {
            let dtype = DType::Other(name.into());
            return Row::unreadable(Some(dtype), shape, format!("it is an array of {what}"));
        }
        None => return Row::unreadable(None, shape, "its element type is unknown"),
    };
    let dtype = element.dtype.clone();
    let read = || {
        let shape = shape.clone().ok_or("its shape is not a list of sizes")?;
        let column_major = match array.order {
            ArrayOrder::Fortran(flag) => pickle.flag(flag) == Some(true),
            ArrayOrder::Letter(letter) => pickle.text(letter) == Some("F"),
        };
        let conversion = element.conversion(big_endian, LazyBits::default())?;
        let region = payloads.region(array.data)?;
        if shape.elements().checked_mul(element.size) != Some(region.length) {
            return Err(format!(
                "its shape and type need {} elements of {} bytes, the file has {} bytes",
                shape.elements(),
                element.size,
                region.length
            ));
        }
        let view = if column_major {
            StridedView::column_major(shape.clone(), element.size, region.length)?
        } else {
            StridedView::contiguous(shape.clone(), element.size, region.length)?
        };
        Ok(Row::readable(&element, shape, &region, view, conversion))
    };
    let row: Result<Row, String> = read();
    row.unwrap_or_else(|why| Row::unreadable(Some(dtype), shape, why))
}

/// Parses `dtype('f4', False, True)` and its state `(3, '<', …)`.
fn described_type(pickle: &Pickle, payloads: &Payloads, id: ValueId) -> Option<ArrayType> {
    let Value::Object(object) = pickle.value(id) else { return None };
    let &kind = object.arguments.first()?;
    if let Some(("ml_dtypes", name)) = pickle.global(kind) {
        return Some(ArrayType::Numbers { element: element_type::torch(name)?, big_endian: false });
    }
    let kind = pickle.text(kind)?;
    let state = object.states.last().and_then(|&state| pickle.items(state)).unwrap_or_default();
    let order = state.get(1).and_then(|&order| pickle.text(order)?.chars().next());
    let has = |place: usize| {
        state.get(place).is_some_and(|&part| !matches!(pickle.value(part), Value::None))
    };
    // Subarrays and fields.
    if has(2) || has(3) {
        return Some(ArrayType::structured());
    }
    let kind = kind.trim_start_matches(['<', '>', '|', '=']);
    Some(match array_type(kind, order) {
        ArrayType::Other { name, what } if kind.starts_with(['M', 'm']) => {
            ArrayType::Other { name: name + &unit(pickle, payloads, state), what }
        }
        array_type => array_type,
    })
}

/// Returns the unit of a date type, such as `[D]`, from the last item of its state.
fn unit(pickle: &Pickle, payloads: &Payloads, state: &[ValueId]) -> String {
    let unit = || {
        let metadata = pickle.items(*state.get(8)?)?;
        let &unit = pickle.items(*metadata.get(1)?)?.first()?;
        payloads.short_text(unit)
    };
    unit().map_or(String::new(), |unit| format!("[{unit}]"))
}
