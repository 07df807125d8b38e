//! The rows, their order and their cursor.
//!
//! The list and the tree both use one flat vector of rows. It is rebuilt when the order, the
//! filter or a fold changes, never while drawing: a frame reads only the visible rows.

use crate::activations::ActivationMode;
use crate::app::filter::{Filter, Matcher, TensorSubject};
use crate::app::model::{Model, TENSORS_PER_TASK};
use crate::app::scroll::{Motion, ScrollList};
use crate::app::table::folds::initial_folds;
use crate::app::table::name_order::name_ranks;
use crate::app::table::order::{Column, Sort, SortKey};
use crate::app::table::totals::{NodeTotals, RATINGS};
use crate::app::tensor_metrics::Sqnr;
use crate::app::tree::{NodeId, Tree, TreeItem};
use crate::tensor::{TensorId, TensorInfo};
use crate::text::{figures, names};
use rayon::prelude::*;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Range;

/// Modules per parallel task.
const MODULES_PER_TASK: usize = 1024;

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The module or tensor.
    pub item: TreeItem,
    /// Its depth in the tree.
    pub depth: u16,
    /// The byte offset at which the shown part of the name starts.
    pub label: u32,
}

/// Width of the longest name, shape and dtype, in columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColumnWidths {
    /// Width of the longest name.
    pub name: usize,
    /// Width of the longest shape.
    pub shape: usize,
    /// Width of the longest dtype.
    pub dtype: usize,
}

impl ColumnWidths {
    fn of(tensors: &[TensorInfo]) -> ColumnWidths {
        // A module's row shows its number of tensors in the column of shapes.
        let modules = figures::counted(tensors.len(), "tensor").chars().count();
        let start = ColumnWidths { shape: modules, ..ColumnWidths::default() };
        tensors.iter().fold(start, |widest, tensor| ColumnWidths {
            name: widest.name.max(names::width(&tensor.name)),
            shape: widest.shape.max(figures::shape(&tensor.shape).chars().count()),
            dtype: widest.dtype.max(names::width(tensor.dtype.name())),
        })
    }
}

/// The table of tensors: order, filter, tree and cursor.
#[derive(Debug)]
pub struct Table {
    /// The order.
    pub sort: Sort,
    /// Whether modules are shown as a tree.
    pub as_tree: bool,
    /// The filter.
    pub filter: Filter,
    /// Width of the longest entries.
    pub widest: ColumnWidths,
    rows: Vec<Row>,
    list: ScrollList,
    /// Whether the user has moved the cursor. Until then it stays on the first row.
    moved: bool,
    /// The row where a range was begun; it reaches to the cursor.
    anchor: Option<TreeItem>,
    /// Every tensor in the order of `sort`, and the rank of each tensor.
    order: Vec<TensorId>,
    rank: Vec<u32>,
    /// The sort key of each tensor.
    keys: Vec<SortKey>,
    shown: Vec<bool>,
    shown_count: usize,
    tried: usize,
    tree: Tree,
    folded: Vec<bool>,
    totals: Vec<NodeTotals>,
    /// The best rank of the visible tensors of each module.
    first: Vec<u32>,
    /// The rank of each tensor by name; empty until it is needed.
    name_rank: Vec<u32>,
}

impl Table {
    /// A table of all tensors.
    pub fn new(model: &Model) -> Table {
        let tensors = model.checkpoint.tensors();
        let count = tensors.len();
        let tree = Tree::of(tensors);
        let mut table = Table {
            sort: Sort::by(Column::Sqnr),
            as_tree: false,
            filter: Filter::everything(),
            tried: 0,
            widest: ColumnWidths::of(tensors),
            rows: Vec::new(),
            list: ScrollList::default(),
            moved: false,
            anchor: None,
            order: model.checkpoint.ids().collect(),
            rank: (0..count as u32).collect(),
            keys: vec![(0, 0.0); count],
            shown: vec![true; count],
            shown_count: count,
            folded: initial_folds(&tree),
            totals: vec![NodeTotals::default(); tree.nodes.len()],
            first: vec![u32::MAX; tree.nodes.len()],
            tree,
            name_rank: Vec::new(),
        };
        table.reorder(model);
        table
    }

    /// The rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Index of the row under the cursor.
    pub fn cursor(&self) -> usize {
        self.list.cursor() as usize
    }

    /// Index of the first visible row.
    pub fn top(&self) -> usize {
        self.list.top() as usize
    }

    /// Number of visible rows.
    pub fn height(&self) -> usize {
        self.list.height() as usize
    }

    /// The visible rows.
    pub fn visible(&self) -> Range<usize> {
        let visible = self.list.visible();
        visible.start as usize..visible.end as usize
    }

    /// The visible tensors.
    pub fn visible_tensors(&self) -> impl Iterator<Item = TensorId> + '_ {
        self.rows[self.visible()].iter().filter_map(|row| match row.item {
            TreeItem::Tensor(id) => Some(id),
            TreeItem::Module(_) => None,
        })
    }

    /// The row under the cursor.
    pub fn current(&self) -> Option<Row> {
        self.rows.get(self.cursor()).copied()
    }

    /// The modules.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The totals of a module.
    pub fn totals(&self, node: NodeId) -> &NodeTotals {
        &self.totals[node.index()]
    }

    /// Returns whether a module is folded.
    pub fn is_folded(&self, node: NodeId) -> bool {
        // Folds do not hide what a filter finds.
        self.folded[node.index()] && self.filter.is_everything()
    }

    /// Returns whether a tensor passes the filter.
    pub fn is_shown(&self, id: TensorId) -> bool {
        self.shown[id.index()]
    }

    /// Number of tensors that pass the filter.
    pub fn shown_count(&self) -> usize {
        self.shown_count
    }

    /// The tensors that pass the filter, in the table's order.
    pub fn shown(&self) -> impl Iterator<Item = TensorId> + '_ {
        self.order.iter().copied().filter(|id| self.shown[id.index()])
    }

    /// The tensors that pass the filter, in the order of the file.
    pub fn shown_in_file_order(&self) -> impl ParallelIterator<Item = TensorId> + '_ {
        let shown = self.shown.par_iter().with_min_len(TENSORS_PER_TASK).enumerate();
        shown.filter(|(_, shown)| **shown).map(|(number, _)| TensorId(number as u32))
    }

    /// The tensors of a row: the tensor itself, or those of the module that pass the filter.
    pub fn tensors_of(&self, item: TreeItem) -> Vec<TensorId> {
        match item {
            TreeItem::Tensor(id) => vec![id],
            TreeItem::Module(node) => {
                let mut below = self.tree.tensors_below(node);
                below.retain(|&id| self.is_shown(id));
                below.sort();
                below
            }
        }
    }

    /// Begins a range at the cursor.
    pub fn begin_range(&mut self) {
        self.anchor = self.current().map(|row| row.item);
    }

    /// Ends the range. False if there was none.
    pub fn end_range(&mut self) -> bool {
        self.anchor.take().is_some()
    }

    /// The rows of the range, if one was begun.
    pub fn range(&self) -> Option<Range<usize>> {
        let start = self.place_of(self.anchor?).unwrap_or(self.cursor());
        let cursor = self.cursor();
        Some(start.min(cursor)..(start.max(cursor) + 1).min(self.rows.len()))
    }

    /// The tensors of the range, or those of the row under the cursor.
    pub fn chosen_tensors(&self) -> Vec<TensorId> {
        let rows = self.range().unwrap_or(self.cursor()..self.cursor() + 1);
        let rows = self.rows.get(rows).unwrap_or_default();
        // A module and its tensors may both be in the range.
        let tensors: BTreeSet<TensorId> =
            rows.iter().flat_map(|row| self.tensors_of(row.item)).collect();
        tensors.into_iter().collect()
    }

    /// Keeps the cursor on its tensor from now on.
    pub fn keep_cursor(&mut self) {
        self.moved = true;
    }

    /// Sets the number of visible rows.
    pub fn set_height(&mut self, height: usize) {
        self.list.set_height(height);
    }

    /// Sets the order and the view at the start.
    pub fn start_with(&mut self, sort: Sort, as_tree: bool, model: &Model) {
        (self.sort, self.as_tree) = (sort, as_tree);
        self.reorder(model);
    }

    /// Changes the order and puts the cursor on the first row.
    pub fn set_sort(&mut self, sort: Sort, model: &Model) {
        self.sort = sort;
        self.moved = false;
        self.reorder(model);
    }

    /// Changes the filter.
    pub fn set_filter(&mut self, mut filter: Filter, model: &Model) {
        filter.resolve_tensors(&self.filter, model);
        let narrower = filter.narrows(&self.filter);
        self.filter = filter;
        self.apply_filter(narrower, model);
        self.rebuild(model);
    }

    /// Tries the filter on every tensor, or only on those that are shown.
    fn apply_filter(&mut self, shown_only: bool, model: &Model) {
        let filter = &self.filter;
        let filter_chunk = |matcher: &mut Matcher, (piece, shown): (usize, &mut [bool])| {
            let (mut tried, mut count) = (0, 0);
            for (number, shown) in (piece * TENSORS_PER_TASK..).zip(shown) {
                if *shown || !shown_only {
                    tried += 1;
                    let id = TensorId(number as u32);
                    *shown = matcher.matches(&TensorSubject { model, id });
                    count += usize::from(*shown);
                }
            }
            (tried, count)
        };
        let pieces = self.shown.par_chunks_mut(TENSORS_PER_TASK).enumerate();
        let pieces = pieces.map_init(|| filter.matcher(), filter_chunk);
        (self.tried, self.shown_count) = pieces.reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    }

    /// The number of tensors that the last filter was tried on.
    pub fn tried(&self) -> usize {
        self.tried
    }

    /// Updates filter and order after new measurements.
    pub fn measurements_changed(&mut self, model: &Model) {
        let refiltered = self.filter.needs_findings();
        if refiltered {
            self.apply_filter(false, model);
        }
        match self.sort.column {
            column if column.needs_findings() => self.reorder(model),
            _ if refiltered => self.rebuild(model),
            _ => self.update_totals(model),
        }
    }

    /// Shows modules as a tree, or a flat list.
    pub fn set_tree(&mut self, as_tree: bool, model: &Model) {
        self.as_tree = as_tree;
        let current = self.current();
        self.moved = true;
        self.rebuild(model);
        // Keep the cursor on the tensor when switching to the tree.
        if let Some(Row { item: TreeItem::Tensor(id), .. }) = current {
            self.go_to(id, model);
        }
    }

    /// Sorts the tensors after the order or the measurements changed.
    pub fn reorder(&mut self, model: &Model) {
        if self.sort.column == Column::Name && self.name_rank.is_empty() {
            self.name_rank = name_ranks(model.checkpoint.tensors());
        }
        let ids = (0..self.keys.len() as u32).into_par_iter().with_min_len(TENSORS_PER_TASK);
        let keys: Vec<SortKey> = ids
            .map(|id| {
                let name_rank = self.name_rank.get(id as usize).copied().unwrap_or_default();
                self.sort.key(model, TensorId(id), name_rank)
            })
            .collect();
        // Tensors with unchanged keys are sorted already; only the few others need sorting.
        let mut others = Vec::new();
        self.order.retain(|&id| {
            let (key, before) = (keys[id.index()], self.keys[id.index()]);
            let is_same = compare(&key, &before).is_eq();
            others.extend((!is_same).then_some((key, id)));
            is_same
        });
        others.par_sort_unstable_by(|(a, i), (b, j)| compare(a, b).then(i.cmp(j)));
        self.order.extend(others.into_iter().map(|(_, id)| id));
        // A stable sort merges the two sorted parts quickly.
        self.order.sort_by(|a, b| compare(&keys[a.index()], &keys[b.index()]).then(a.cmp(b)));
        self.keys = keys;
        for (rank, id) in (0..).zip(&self.order) {
            self.rank[id.index()] = rank;
        }
        self.rebuild(model);
    }

    /// Rebuilds the rows. The cursor stays on its tensor and on its line of the screen.
    fn rebuild(&mut self, model: &Model) {
        let held = self.current().map(|row| row.item);
        let line = self.list.cursor() - self.list.top();
        self.update_totals(model);
        self.rows.clear();
        if self.as_tree {
            let mut rows = std::mem::take(&mut self.rows);
            self.append_children(&mut rows, &mut Vec::new(), NodeId::ROOT, 0, 0);
            self.rows = rows;
        } else {
            let row = |id: TensorId| Row { item: TreeItem::Tensor(id), depth: 0, label: 0 };
            let shown = self.order.iter().copied().filter(|id| self.shown[id.index()]);
            if self.filter.is_fuzzy() {
                self.rows.extend(best_first(&self.filter, shown, model).into_iter().map(row))
            } else {
                self.rows.extend(shown.map(row))
            }
        }
        self.list.set_len(self.rows.len() as u64);
        if !self.moved {
            return self.list.go_to(0);
        }
        let row = held.and_then(|item| self.place_of(item)).unwrap_or(self.cursor());
        self.list.put_on_line(row as u64, line);
    }

    /// The row of an item, or of the folded module that hides it.
    fn place_of(&self, item: TreeItem) -> Option<usize> {
        let mut item = item;
        loop {
            if let Some(place) = self.rows.iter().position(|row| row.item == item) {
                return Some(place);
            }
            item = match item {
                TreeItem::Module(NodeId::ROOT) => return None,
                TreeItem::Module(node) => TreeItem::Module(self.tree.node(node).parent),
                TreeItem::Tensor(id) => TreeItem::Module(self.tree.module[id.index()]),
            };
        }
    }

    /// Recomputes the totals of modules. They depend on the marks, so this runs after every change
    /// of the plan.
    pub fn update_totals(&mut self, model: &Model) {
        if !self.as_tree {
            return;
        }
        let modules = (0..self.tree.nodes.len() as u32).into_par_iter().map(NodeId);
        let modules =
            modules.with_min_len(MODULES_PER_TASK).map(|node| self.own_totals(node, model));
        let (mut totals, mut first) = (Vec::new(), Vec::new());
        modules.unzip_into_vecs(&mut totals, &mut first);
        (self.totals, self.first) = (totals, first);
        for node in (1..self.tree.nodes.len()).rev() {
            let (totals, first) = (self.totals[node], self.first[node]);
            let parent = self.tree.nodes[node].parent.index();
            self.totals[parent].add(&totals);
            self.first[parent] = self.first[parent].min(first);
        }
    }

    /// The totals of the tensors directly in a module that pass the filter, and their best rank.
    fn own_totals(&self, node: NodeId, model: &Model) -> (NodeTotals, u32) {
        let (mut totals, mut first) = (NodeTotals::default(), u32::MAX);
        for child in self.tree.children(node) {
            let TreeItem::Tensor(id) = *child else { continue };
            if !self.shown[id.index()] {
                continue;
            }
            first = first.min(self.rank[id.index()]);
            let (tensor, sqnr) = (model.checkpoint.tensor(id), model.sqnr(id));
            totals.tensors += 1;
            totals.parameters = totals.parameters.saturating_add(tensor.parameters());
            totals.bytes = totals.bytes.saturating_add(tensor.bytes);
            totals.quantizable += usize::from(model.quantizable(id));
            totals.marked += usize::from(model.is_marked(id));
            totals.waiting += usize::from(sqnr == Sqnr::Waiting);
            if let Some(db) = sqnr.decibels() {
                totals.worst = Some(totals.worst.map_or(db, |worst| worst.min(db)));
                let own = model.thresholds.rate(db);
                let place = RATINGS.iter().position(|&rating| rating == own);
                place.into_iter().for_each(|place| totals.ratings[place] += 1);
            }
            if let Some(db) = model.output(id).and_then(|error| error.db(ActivationMode::Weights)) {
                totals.worst_output = Some(totals.worst_output.map_or(db, |worst| worst.max(db)));
            }
        }
        (totals, first)
    }

    /// Appends the rows below a module. `siblings` is a buffer shared by the recursion.
    fn append_children(
        &self,
        rows: &mut Vec<Row>,
        siblings: &mut Vec<((u64, u32), TreeItem)>,
        node: NodeId,
        depth: u16,
        label: u32,
    ) {
        let shown = |child: &&TreeItem| match **child {
            TreeItem::Module(node) => self.first[node.index()] < u32::MAX,
            TreeItem::Tensor(id) => self.shown[id.index()],
        };
        let first = siblings.len();
        let children = self.tree.children(node).iter().filter(shown);
        siblings.extend(children.map(|&child| (self.sibling_key(child), child)));
        siblings[first..].sort_unstable_by_key(|&(key, _)| key);
        for at in first..siblings.len() {
            let (_, child) = siblings[at];
            match child {
                TreeItem::Tensor(_) => rows.push(Row { item: child, depth, label }),
                TreeItem::Module(module) => {
                    let module = self.tree.skip_single_children(module);
                    rows.push(Row { item: TreeItem::Module(module), depth, label });
                    if !self.is_folded(module) {
                        let label = self.tree.node(module).prefix + 1;
                        self.append_children(rows, siblings, module, depth + 1, label);
                    }
                }
            }
        }
        siblings.truncate(first);
    }

    /// Modules are ordered by their totals where totals are meaningful, otherwise by their first
    /// tensor.
    fn sibling_key(&self, item: TreeItem) -> (u64, u32) {
        let rank = match item {
            TreeItem::Module(node) => self.first[node.index()],
            TreeItem::Tensor(id) => self.rank[id.index()],
        };
        let sum = match (self.sort.column, item) {
            (Column::Bytes, TreeItem::Module(node)) => self.totals(node).bytes,
            (Column::Shape, TreeItem::Module(node)) => self.totals(node).parameters,
            _ => return (0, rank),
        };
        (if self.sort.descending { u64::MAX - sum } else { sum }, rank)
    }

    /// Moves the cursor.
    pub fn move_cursor(&mut self, motion: Motion) {
        self.moved = true;
        self.list.move_cursor(motion);
    }

    /// Puts the cursor on a visible line. False if there is no row.
    pub fn click(&mut self, line: usize) -> bool {
        let hit = self.list.click(line);
        self.moved |= hit;
        hit
    }

    /// Scrolls without moving the cursor, unless it would leave the screen.
    pub fn scroll(&mut self, rows: isize) {
        self.moved = true;
        self.list.scroll(rows);
    }

    /// Scrolls to a share of the way, from 0 for the first page to 1 for the last.
    pub fn scroll_to(&mut self, share: f64) {
        self.moved = true;
        self.list.scroll_to_share(share);
    }

    /// Puts the cursor on a tensor and unfolds its modules. False if the filter hides it.
    pub fn go_to(&mut self, id: TensorId, model: &Model) -> bool {
        if !self.is_shown(id) {
            return false;
        }
        self.moved = true;
        if self.as_tree {
            let mut node = self.tree.module[id.index()];
            let mut unfolded = false;
            while node != NodeId::ROOT {
                unfolded |= std::mem::replace(&mut self.folded[node.index()], false);
                node = self.tree.node(node).parent;
            }
            if unfolded {
                self.rebuild(model);
            }
        }
        if let Some(place) = self.place_of(TreeItem::Tensor(id)) {
            self.list.go_to(place as u64);
        }
        true
    }

    /// The next or the previous row with a tensor that `matches`, cyclically.
    pub fn find(&self, forward: bool, mut matches: impl FnMut(TensorId) -> bool) -> Option<usize> {
        let count = self.rows.len();
        (1..=count)
            .map(|step| {
                if forward {
                    (self.cursor() + step) % count
                } else {
                    (self.cursor() + count - step) % count
                }
            })
            .find(|&place| match self.rows[place].item {
                TreeItem::Tensor(id) => matches(id),
                TreeItem::Module(_) => false,
            })
    }

    /// Moves the cursor to a row.
    pub fn move_to(&mut self, place: usize) {
        self.moved = true;
        self.list.go_to(place as u64);
    }

    /// Folds or unfolds the module under the cursor. False if there is none.
    pub fn toggle_fold(&mut self, model: &Model) -> bool {
        match self.current() {
            Some(Row { item: TreeItem::Module(node), .. }) => {
                self.set_folded(node, !self.folded[node.index()], model);
                true
            }
            _ => false,
        }
    }

    /// Folds the module under the cursor, or moves to the parent.
    pub fn fold_or_leave(&mut self, model: &Model) {
        let Some(row) = self.current() else { return };
        match row.item {
            TreeItem::Module(node) if !self.is_folded(node) => self.set_folded(node, true, model),
            _ => {
                let above = self.rows[..self.cursor()].iter().rposition(|r| r.depth < row.depth);
                if let Some(above) = above {
                    self.move_to(above);
                }
            }
        }
    }

    /// Unfolds the module under the cursor, or moves to its first row.
    pub fn unfold_or_enter(&mut self, model: &Model) {
        if let Some(Row { item: TreeItem::Module(node), .. }) = self.current() {
            if self.is_folded(node) {
                self.set_folded(node, false, model)
            } else {
                self.move_cursor(Motion::Down)
            }
        }
    }

    /// Folds or unfolds every module.
    pub fn fold_all(&mut self, folded: bool, model: &Model) {
        self.moved = true;
        self.folded.fill(folded);
        self.rebuild(model);
    }

    fn set_folded(&mut self, node: NodeId, folded: bool, model: &Model) {
        self.moved = true;
        self.folded[node.index()] = folded;
        self.rebuild(model);
    }
}

/// Tensors by how well their names match; equal ones stay in their order.
fn best_first(
    filter: &Filter,
    tensors: impl Iterator<Item = TensorId>,
    model: &Model,
) -> Vec<TensorId> {
    let mut matcher = filter.matcher();
    let score = |id| (matcher.score(&TensorSubject { model, id }).unwrap_or(0), id);
    let mut scored: Vec<(u32, TensorId)> = tensors.map(score).collect();
    scored.sort_by_key(|&(score, _)| std::cmp::Reverse(score));
    scored.into_iter().map(|(_, id)| id).collect()
}

fn compare(a: &SortKey, b: &SortKey) -> Ordering {
    a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
}
