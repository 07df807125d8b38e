//! The modules that the dots in tensor names make.

use crate::tensor::{TensorId, TensorInfo};
use std::collections::HashMap;

/// A module's place in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    pub const ROOT: NodeId = NodeId(0);

    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A row's subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    Module(NodeId),
    Tensor(TensorId),
}

#[derive(Debug)]
pub struct Node {
    pub parent: NodeId,
    /// A tensor below it: the first `prefix` bytes of its name are the module's.
    pub sample: TensorId,
    pub prefix: u32,
    pub children: Vec<Item>,
}

/// Modules and their children in the order of the file. A parent's id is smaller than its
/// children's, so totals are summed up in one sweep from the back.
#[derive(Debug)]
pub struct Tree {
    pub nodes: Vec<Node>,
    /// The module of each tensor.
    pub module: Vec<NodeId>,
}

/// Deeper names keep their remaining dots: no model nests so far, a hostile file may.
const MAX_DEPTH: usize = 32;

impl Tree {
    pub fn of(tensors: &[TensorInfo]) -> Tree {
        let root =
            Node { parent: NodeId::ROOT, sample: TensorId(0), prefix: 0, children: Vec::new() };
        let mut nodes = vec![root];
        let mut module = Vec::with_capacity(tensors.len());
        let mut known: HashMap<(NodeId, &str), NodeId> = HashMap::new();
        for (number, tensor) in tensors.iter().enumerate() {
            let id = TensorId(number as u32);
            let mut node = NodeId::ROOT;
            let mut start = 0;
            for (dot, _) in tensor.name.match_indices('.').take(MAX_DEPTH) {
                let parent = node;
                node = *known.entry((parent, &tensor.name[start..dot])).or_insert_with(|| {
                    let new = NodeId(nodes.len() as u32);
                    let prefix = dot as u32;
                    nodes.push(Node { parent, sample: id, prefix, children: Vec::new() });
                    nodes[parent.index()].children.push(Item::Module(new));
                    new
                });
                start = dot + 1;
            }
            nodes[node.index()].children.push(Item::Tensor(id));
            module.push(node);
        }
        Tree { nodes, module }
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// All tensors below a module, in no particular order.
    pub fn below(&self, module: NodeId) -> Vec<TensorId> {
        let mut found = Vec::new();
        let mut open = vec![module];
        while let Some(node) = open.pop() {
            for child in &self.node(node).children {
                match *child {
                    Item::Module(node) => open.push(node),
                    Item::Tensor(id) => found.push(id),
                }
            }
        }
        found
    }

    /// Follows modules that hold nothing but one other module: `encoder` → `encoder.layer`.
    pub fn through(&self, mut module: NodeId) -> NodeId {
        while let [Item::Module(only)] = self.node(module).children[..] {
            module = only;
        }
        module
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{DType, Shape};

    fn tensors(names: &[&str]) -> Vec<TensorInfo> {
        let info = |name: &&str| TensorInfo {
            name: (*name).into(),
            dtype: DType::F32,
            shape: Shape::vector(1),
            bytes: 4,
        };
        names.iter().map(info).collect()
    }

    #[test]
    fn modules_are_what_the_dots_say() {
        let tensors = tensors(&["a.b.w", "c", "a.b.x.w", "a.b.bias"]);
        let tree = Tree::of(&tensors);
        assert_eq!(tree.nodes.len(), 4);
        let ab = tree.through(NodeId(1));
        assert_eq!(&tensors[0].name[..tree.node(ab).prefix as usize], "a.b");
        let mut below = tree.below(ab);
        below.sort();
        assert_eq!(below, [TensorId(0), TensorId(2), TensorId(3)]);
    }

    #[test]
    fn names_full_of_dots_do_not_nest_without_end() {
        let name = "a.".repeat(100_000);
        assert_eq!(Tree::of(&tensors(&[&name])).nodes.len(), MAX_DEPTH + 1);
    }
}
