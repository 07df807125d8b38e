//! The tree of modules, from the dots in tensor names.

use crate::tensor::{TensorId, TensorInfo};
use foldhash::{HashMap, HashMapExt};
use std::ops::Range;

/// The index of a module in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The root of the tree.
    pub const ROOT: NodeId = NodeId(0);

    /// Index in [`Tree::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The item that a row shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeItem {
    /// A module.
    Module(NodeId),
    /// A tensor.
    Tensor(TensorId),
}

/// A module.
#[derive(Debug)]
pub struct Node {
    /// The module around it.
    pub parent: NodeId,
    /// A tensor in the module: the first `prefix` bytes of its name are the module's path.
    pub sample: TensorId,
    /// Length of the module's path in bytes.
    pub prefix: u32,
    /// The module's range in the list of all children.
    children: Range<u32>,
}

/// Modules and their children in the order of the file. A parent's id is smaller than its
/// children's, so totals are computed in one sweep from the back. Modules with a single tensor are
/// left out: there are many, and they show nothing more than their tensor.
#[derive(Debug)]
pub struct Tree {
    /// All modules; a module comes before those in it.
    pub nodes: Vec<Node>,
    children: Vec<TreeItem>,
    /// The module of each tensor: the nearest one with several tensors.
    pub module: Vec<NodeId>,
}

/// A module while the tree is built, also one with a single tensor.
struct ModuleBuilder {
    /// `None` for the root.
    parent: Option<NodeId>,
    sample: TensorId,
    prefix: u32,
    children: Vec<TreeItem>,
    /// Number of tensors below it.
    tensors: u32,
}

impl ModuleBuilder {
    fn new(parent: Option<NodeId>, sample: TensorId, prefix: u32) -> ModuleBuilder {
        ModuleBuilder { parent, sample, prefix, children: Vec::new(), tensors: 0 }
    }

    fn is_kept(&self) -> bool {
        self.tensors > 1 || self.parent.is_none()
    }
}

/// Limits the depth; names nested deeper keep their remaining dots. No real model nests so deeply,
/// but a hostile file may.
const MAX_DEPTH: usize = 32;

impl Tree {
    /// The tree of the modules in the tensors' names.
    pub fn of(tensors: &[TensorInfo]) -> Tree {
        let mut all = vec![ModuleBuilder::new(None, TensorId(0), 0)];
        let mut module = Vec::with_capacity(tensors.len());
        let mut known: HashMap<(NodeId, &str), NodeId> = HashMap::with_capacity(tensors.len());
        for (id, tensor) in (0..).map(TensorId).zip(tensors) {
            let mut node = NodeId::ROOT;
            let mut start = 0;
            all[node.index()].tensors += 1;
            for (dot, _) in tensor.name.match_indices('.').take(MAX_DEPTH) {
                let parent = node;
                node = *known.entry((parent, &tensor.name[start..dot])).or_insert_with(|| {
                    let new = NodeId(all.len() as u32);
                    all.push(ModuleBuilder::new(Some(parent), id, dot as u32));
                    all[parent.index()].children.push(TreeItem::Module(new));
                    new
                });
                all[node.index()].tensors += 1;
                start = dot + 1;
            }
            all[node.index()].children.push(TreeItem::Tensor(id));
            module.push(node);
        }
        Tree::without_single_tensors(&all, module)
    }

    fn without_single_tensors(all: &[ModuleBuilder], mut module: Vec<NodeId>) -> Tree {
        // A module that is left out is replaced by its parent.
        let mut places: Vec<NodeId> = Vec::with_capacity(all.len());
        let mut kept = 0;
        let parent = |found: &ModuleBuilder, places: &[NodeId]| {
            found.parent.map_or(NodeId::ROOT, |parent| places[parent.index()])
        };
        for found in all {
            let is_kept = found.is_kept();
            places.push(if is_kept { NodeId(kept) } else { parent(found, &places) });
            kept += u32::from(is_kept);
        }
        let (mut nodes, mut children) = (Vec::with_capacity(kept as usize), Vec::new());
        for found in all.iter().filter(|found| found.is_kept()) {
            let first = children.len() as u32;
            children.extend(found.children.iter().map(|child| match *child {
                TreeItem::Tensor(_) => *child,
                TreeItem::Module(module) => match &all[module.index()] {
                    kept if kept.is_kept() => TreeItem::Module(places[module.index()]),
                    single => TreeItem::Tensor(single.sample),
                },
            }));
            nodes.push(Node {
                parent: parent(found, &places),
                sample: found.sample,
                prefix: found.prefix,
                children: first..children.len() as u32,
            });
        }
        module.iter_mut().for_each(|module| *module = places[module.index()]);
        Tree { nodes, children, module }
    }

    /// A module.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The direct children of a module.
    pub fn children(&self, module: NodeId) -> &[TreeItem] {
        let Range { start, end } = self.node(module).children;
        &self.children[start as usize..end as usize]
    }

    /// All tensors below a module, in no particular order.
    pub fn tensors_below(&self, module: NodeId) -> Vec<TensorId> {
        let mut found = Vec::new();
        let mut open = vec![module];
        while let Some(node) = open.pop() {
            for child in self.children(node) {
                match *child {
                    TreeItem::Module(node) => open.push(node),
                    TreeItem::Tensor(id) => found.push(id),
                }
            }
        }
        found
    }

    /// Skips modules whose only child is another module: `encoder` → `encoder.layer`.
    pub fn skip_single_children(&self, mut module: NodeId) -> NodeId {
        while let [TreeItem::Module(only)] = *self.children(module) {
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
    fn modules_follow_the_dots_in_names() {
        let tensors = tensors(&["a.b.w", "c", "a.b.x.w", "a.b.bias"]);
        let tree = Tree::of(&tensors);
        // Root, a and a.b; a.b.x is a single tensor.
        assert_eq!(tree.nodes.len(), 3);
        let ab = tree.skip_single_children(NodeId(1));
        assert_eq!(&tensors[0].name[..tree.node(ab).prefix as usize], "a.b");
        let children = [0, 2, 3].map(|number| TreeItem::Tensor(TensorId(number)));
        assert_eq!(tree.children(ab), children);
        assert_eq!(tree.module, [ab, NodeId::ROOT, ab, ab]);
        let mut below = tree.tensors_below(ab);
        below.sort();
        assert_eq!(below, [TensorId(0), TensorId(2), TensorId(3)]);
    }

    #[test]
    fn the_depth_of_modules_is_limited() {
        let name = "a.".repeat(100_000);
        let two = [format!("{name}b"), format!("{name}c")];
        let tree = Tree::of(&tensors(&two.each_ref().map(String::as_str)));
        assert_eq!(tree.nodes.len(), MAX_DEPTH + 1);
    }
}
