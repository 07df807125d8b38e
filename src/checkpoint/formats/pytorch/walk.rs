//! Finds every tensor in a pickle and names it.

use crate::checkpoint::formats::pytorch::graph::{PathStep, children};
use crate::checkpoint::formats::pytorch::key_text::key_text;
use crate::checkpoint::formats::pytorch::rebuild::{Rebuild, rebuild};
use crate::checkpoint::formats::pytorch::value::{Pickle, ValueId};
use crate::checkpoint::io::source::Source;
use std::collections::{HashMap, HashSet};

/// Limits on the bytes of all names, and on the steps of all paths.
const NAME_BYTES_LIMIT: usize = 64 << 20;
const PATH_STEPS_LIMIT: usize = 1 << 24;

/// Number of paths that may be followed in addition to four per value.
const FREE_PATHS: usize = 1 << 16;

/// A tensor at one path in the pickle.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub id: ValueId,
    /// Index of the last node of the path.
    node: u32,
    /// Index of the root's child on the path; `None` for the root itself.
    pub top: Option<usize>,
    /// Whether it is inside a tensor whose class keeps its elements in parts.
    pub is_part: bool,
}

/// The tensors of a pickle and their paths.
#[derive(Debug)]
pub(super) struct Leaves {
    pub leaves: Vec<Leaf>,
    nodes: Vec<Node>,
    /// Whether listed tensors have further paths that were left out.
    pub incomplete: bool,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    parent: u32,
    step: PathStep,
}

const ROOT: u32 = 0;

/// Flags the values that are or contain a tensor.
pub(super) struct Holders(Vec<bool>);

impl Holders {
    /// Visits every value reachable from the root once.
    pub(super) fn new(pickle: &Pickle) -> Holders {
        let mut seen = vec![false; pickle.values.len()];
        let mut parents: Vec<(ValueId, ValueId)> = Vec::new();
        let mut tensors = Vec::new();
        let mut pending = vec![pickle.root];
        while let Some(id) = pending.pop() {
            match seen.get_mut(id.index()) {
                Some(seen) if !*seen => *seen = true,
                _ => continue,
            }
            if rebuild(pickle, id).is_some() {
                tensors.push(id);
            }
            for (_, child) in children(pickle, id) {
                parents.push((child, id));
                pending.push(child);
            }
        }
        parents.sort_unstable();
        let mut holds = vec![false; pickle.values.len()];
        let mut pending = tensors;
        while let Some(id) = pending.pop() {
            match holds.get_mut(id.index()) {
                Some(holds) if !*holds => *holds = true,
                _ => continue,
            }
            let first = parents.partition_point(|(child, _)| *child < id);
            let above = parents.get(first..).unwrap_or_default().iter();
            pending.extend(above.take_while(|(child, _)| *child == id).map(|(_, parent)| parent));
        }
        Holders(holds)
    }

    pub(super) fn hold(&self, id: ValueId) -> bool {
        self.0.get(id.index()).copied().unwrap_or(false)
    }
}

/// Lists every tensor in pickle order, once per path. If there are too many paths, only the first
/// path to each value is followed.
pub(super) fn leaves(pickle: &Pickle, holders: &Holders) -> Leaves {
    follow(pickle, holders, false).unwrap_or_else(|| {
        let first = follow(pickle, holders, true);
        let (leaves, nodes) = first.map(|found| (found.leaves, found.nodes)).unwrap_or_default();
        Leaves { leaves, nodes, incomplete: true }
    })
}

enum Visit {
    Enter { node: u32, id: ValueId, top: Option<usize>, is_part: bool },
    Leave(ValueId),
}

/// Returns `None` if there are too many paths.
fn follow(pickle: &Pickle, holders: &Holders, once: bool) -> Option<Leaves> {
    let limit = pickle.values.len().saturating_mul(4) + FREE_PATHS;
    let mut nodes = vec![Node { parent: ROOT, step: PathStep::Inside }];
    let mut leaves = Vec::new();
    // Values on the current path, which may contain themselves.
    let mut blocked = vec![false; pickle.values.len()];
    let mut pending = vec![Visit::Enter { node: ROOT, id: pickle.root, top: None, is_part: false }];
    while let Some(event) = pending.pop() {
        let (node, id, top, is_part) = match event {
            Visit::Enter { node, id, top, is_part } => (node, id, top, is_part),
            Visit::Leave(id) => {
                if let Some(blocked) = blocked.get_mut(id.index()) {
                    *blocked = once;
                }
                continue;
            }
        };
        match blocked.get_mut(id.index()) {
            Some(blocked) if !*blocked && holders.hold(id) => *blocked = true,
            _ => continue,
        }
        if nodes.len() > limit {
            return None;
        }
        let tensor = rebuild(pickle, id);
        if tensor.is_some() {
            leaves.push(Leaf { id, node, top, is_part });
        }
        let is_part = is_part || matches!(tensor, Some(Rebuild::InParts { .. }));
        pending.push(Visit::Leave(id));
        let start = pending.len();
        for (place, (step, child)) in children(pickle, id).into_iter().enumerate() {
            if holders.hold(child) {
                let number = nodes.len() as u32;
                nodes.push(Node { parent: node, step });
                let top = top.or((node == ROOT && number != ROOT).then_some(place));
                pending.push(Visit::Enter { node: number, id: child, top, is_part });
            }
        }
        if let Some(entered) = pending.get_mut(start..) {
            entered.reverse();
        }
    }
    Some(Leaves { leaves, nodes, incomplete: false })
}

/// Makes unique names from paths.
pub(super) struct Namer<'a> {
    source: &'a Source,
    pickle: &'a Pickle,
    leaves: &'a Leaves,
    used: HashSet<String>,
    repeated: HashMap<String, u64>,
    bytes: usize,
    steps: usize,
}

impl<'a> Namer<'a> {
    pub(super) fn new(source: &'a Source, pickle: &'a Pickle, leaves: &'a Leaves) -> Namer<'a> {
        let (used, repeated) = (HashSet::new(), HashMap::new());
        Namer { source, pickle, leaves, used, repeated, bytes: 0, steps: 0 }
    }

    /// Returns the name of a leaf. `root` is the name of a tensor that is the pickle's root;
    /// `unwrapped` leaves out the first part. `None` if the names exceed the limit.
    pub(super) fn name(&mut self, leaf: &Leaf, root: &str, unwrapped: bool) -> Option<String> {
        let mut path = Vec::new();
        let mut node = leaf.node;
        while node != ROOT {
            let Node { parent, step } = *self.leaves.nodes.get(node as usize)?;
            path.push(step);
            node = parent;
            self.steps += 1;
            if self.steps > PATH_STEPS_LIMIT {
                return None;
            }
        }
        let mut parts = path.into_iter().rev().filter_map(|step| self.part(step));
        let mut name = match parts.next() {
            None => root.to_owned(),
            Some(first) if unwrapped => parts.next().unwrap_or(first),
            Some(first) => first,
        };
        for part in parts {
            name.push('.');
            name.push_str(&part);
            if name.len() > NAME_BYTES_LIMIT {
                return None;
            }
        }
        self.bytes += name.len();
        (self.bytes <= NAME_BYTES_LIMIT).then(|| self.unique(name))
    }

    fn part(&self, step: PathStep) -> Option<String> {
        match step {
            PathStep::Key(id) => Some(key_text(self.source, self.pickle, id)),
            PathStep::Index(number) => Some(number.to_string()),
            PathStep::Argument(number) => Some(format!("args.{number}")),
            PathStep::Keywords => Some("kwargs".to_owned()),
            PathStep::State => Some("state".to_owned()),
            PathStep::Inside => None,
        }
    }

    /// Makes a name unique by appending a number.
    fn unique(&mut self, name: String) -> String {
        if self.used.insert(name.clone()) {
            return name;
        }
        let number = self.repeated.entry(name.clone()).or_insert(1);
        loop {
            *number += 1;
            let other = format!("{name} ({number})");
            if self.used.insert(other.clone()) {
                return other;
            }
        }
    }
}
