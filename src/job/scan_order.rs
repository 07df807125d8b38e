//! The order in which a scan measures tensors.

use super::lock;
use crate::tensor::TensorId;
use std::collections::VecDeque;
use std::sync::Mutex;

/// The order in which tensors are measured. It can be changed while a scan runs.
#[derive(Debug, Default)]
pub struct Order {
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    waiting: VecDeque<TensorId>,
    taken: Vec<bool>,
    urgent: VecDeque<TensorId>,
}

impl Order {
    /// Measures `tensors` in this order.
    pub fn new(tensors: Vec<TensorId>) -> Order {
        let length = tensors.iter().map(|id| id.index() + 1).max().unwrap_or(0);
        let mut taken = vec![true; length];
        tensors.iter().for_each(|id| taken[id.index()] = false);
        let pending = Pending { waiting: tensors.into(), taken, urgent: VecDeque::new() };
        Order { pending: Mutex::new(pending) }
    }

    /// Measures these tensors next.
    pub fn prioritize(&self, tensors: impl IntoIterator<Item = TensorId>) {
        let mut pending = lock(&self.pending);
        pending.urgent = tensors.into_iter().collect();
    }

    /// The tensors of the order, before any is taken.
    pub(super) fn tensors(&self) -> Vec<TensorId> {
        lock(&self.pending).waiting.iter().copied().collect()
    }

    /// Removes a tensor from the order; false if it is not waiting.
    pub(super) fn take(&self, id: TensorId) -> bool {
        let mut pending = lock(&self.pending);
        let taken = pending.taken.get_mut(id.index());
        taken.is_some_and(|taken| !std::mem::replace(taken, true))
    }

    /// Takes the tensor to measure next; `None` if none is waiting.
    pub(super) fn next(&self) -> Option<TensorId> {
        let mut pending = lock(&self.pending);
        loop {
            let id = match pending.urgent.pop_front() {
                Some(id) => id,
                None => pending.waiting.pop_front()?,
            };
            if let Some(taken @ false) = pending.taken.get_mut(id.index()) {
                *taken = true;
                return Some(id);
            }
        }
    }
}
