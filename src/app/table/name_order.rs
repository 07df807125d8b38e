//! The natural order of names.

use crate::tensor::TensorInfo;
use crate::text::names::natural_key;

/// The rank of each tensor in natural name order.
pub(super) fn name_ranks(tensors: &[TensorInfo]) -> Vec<u32> {
    let mut keys = Vec::new();
    let ends: Vec<usize> = tensors
        .iter()
        .map(|tensor| {
            natural_key(&tensor.name, &mut keys);
            keys.len()
        })
        .collect();
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let keys: Vec<&[u8]> = starts.zip(&ends).map(|(start, &end)| &keys[start..end]).collect();
    // A common prefix cannot decide; the bytes after it mostly do.
    let common = match (keys.iter().min(), keys.iter().max()) {
        (Some(least), Some(most)) => least.iter().zip(*most).take_while(|(a, b)| a == b).count(),
        _ => 0,
    };
    let first = |key: &[u8]| {
        let mut first = [0; 16];
        key.iter().skip(common).zip(&mut first).for_each(|(&byte, place)| *place = byte);
        u128::from_be_bytes(first)
    };
    let mut by_name: Vec<(u128, u32)> = keys.iter().map(|key| first(key)).zip(0..).collect();
    by_name.sort_unstable_by(|(a, i), (b, j)| {
        a.cmp(b).then_with(|| keys[*i as usize].cmp(keys[*j as usize])).then(i.cmp(j))
    });
    let mut ranks = vec![0; tensors.len()];
    (0..).zip(by_name).for_each(|(rank, (_, id))| ranks[id as usize] = rank);
    ranks
}
