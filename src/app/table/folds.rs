//! Which modules of the tree are folded at the start.

use crate::app::tree::{NodeId, Tree, TreeItem};

/// The tree opens until about this many rows are visible.
const INITIAL_ROWS: usize = 24;

/// Folds everything except the first levels, as many as fit the screen.
pub(super) fn initial_folds(tree: &Tree) -> Vec<bool> {
    let mut folded = vec![true; tree.nodes.len()];
    let mut level = vec![NodeId::ROOT];
    let mut rows = 0;
    loop {
        let open: Vec<NodeId> = level.iter().map(|&node| tree.skip_single_children(node)).collect();
        let children: usize = open.iter().map(|&node| tree.children(node).len()).sum();
        if open.is_empty() || rows + children > INITIAL_ROWS {
            return folded;
        }
        rows += children;
        open.iter().for_each(|node| folded[node.index()] = false);
        level = open
            .iter()
            .flat_map(|&node| tree.children(node))
            .filter_map(|child| match *child {
                TreeItem::Module(node) => Some(node),
                TreeItem::Tensor(_) => None,
            })
            .collect();
    }
}
