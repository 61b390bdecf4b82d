//! Sequences merged into a prefix tree, so that a shared prefix is computed once.
//!
//! The chosen and the rejected answer of a pair share their prompt, and all
//! prompts share the system message. A node attends to its ancestors and its
//! position is its depth, so its hidden state, and every gradient, is exactly
//! that of the separate sequences. Knows tokens only: no tensor, no loss.

use std::collections::HashMap;
use std::ops::Range;

use crate::ops::head::Target;

/// A tokenized conversation of which the end is scored.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sequence {
    /// Prompt and completion, end-of-turn token included.
    pub tokens: Vec<u32>,
    /// Where the completion starts; at least 1.
    pub completion_start: usize,
}

impl Sequence {
    /// Tokens that are scored.
    #[must_use]
    pub fn completion_len(&self) -> usize {
        self.tokens.len().saturating_sub(self.completion_start)
    }
}

/// A run of rows without a branch, and the runs above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) rows: Range<usize>,
    /// From the root down.
    pub(crate) ancestors: Vec<Range<usize>>,
}

impl Segment {
    /// Rows that the last row of the segment sees.
    pub(crate) fn path_len(&self) -> usize {
        self.ancestors
            .iter()
            .map(ExactSizeIterator::len)
            .sum::<usize>()
            + self.rows.len()
    }

    /// The ranges of rows from the root to the segment's end.
    pub(crate) fn path(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.ancestors.iter().cloned().chain([self.rows.clone()])
    }
}

/// A packed prefix tree: rows in depth-first order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tree {
    pub(crate) tokens: Vec<u32>,
    pub(crate) positions: Vec<usize>,
    pub(crate) segments: Vec<Segment>,
}

/// A trie under construction.
#[derive(Debug, Default)]
pub(crate) struct Trie {
    tokens: Vec<u32>,
    children: Vec<Vec<usize>>,
    roots: Vec<usize>,
    edges: HashMap<(Option<usize>, u32), usize>,
}

impl Trie {
    /// Nodes so far.
    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Nodes that inserting `tokens` would add.
    fn missing(&self, tokens: &[u32]) -> usize {
        let mut parent = None;
        for (depth, &token) in tokens.iter().enumerate() {
            match self.edges.get(&(parent, token)) {
                Some(&node) => parent = Some(node),
                None => return tokens.len() - depth,
            }
        }
        0
    }

    /// Adds a sequence and gives the node of each token.
    pub(crate) fn insert(&mut self, tokens: &[u32]) -> Vec<usize> {
        let mut parent = None;
        let mut path = Vec::with_capacity(tokens.len());
        for &token in tokens {
            let node = match self.edges.get(&(parent, token)) {
                Some(&node) => node,
                None => self.add(parent, token),
            };
            path.push(node);
            parent = Some(node);
        }
        path
    }

    fn add(&mut self, parent: Option<usize>, token: u32) -> usize {
        let node = self.tokens.len();
        self.tokens.push(token);
        self.children.push(Vec::new());
        self.edges.insert((parent, token), node);
        match parent {
            Some(parent) => self.children[parent].push(node),
            None => self.roots.push(node),
        }
        node
    }

    /// The tree in depth-first order, and the row of each node.
    pub(crate) fn finish(self) -> (Tree, Vec<usize>) {
        let mut tree = Tree::default();
        let mut row_of = vec![0; self.tokens.len()];
        // Heads of segments still to lay out: (node, depth, ancestors).
        let mut open: Vec<(usize, usize, Vec<Range<usize>>)> = self
            .roots
            .iter()
            .rev()
            .map(|&root| (root, 0, Vec::new()))
            .collect();
        while let Some((mut node, mut depth, ancestors)) = open.pop() {
            let start = tree.tokens.len();
            loop {
                row_of[node] = tree.tokens.len();
                tree.tokens.push(self.tokens[node]);
                tree.positions.push(depth);
                depth += 1;
                match self.children[node][..] {
                    [only] => node = only,
                    _ => break,
                }
            }
            let rows = start..tree.tokens.len();
            let mut below = ancestors.clone();
            below.push(rows.clone());
            let children = self.children[node].iter().rev();
            open.extend(children.map(|&child| (child, depth, below.clone())));
            tree.segments.push(Segment { rows, ancestors });
        }
        (tree, row_of)
    }
}

/// Sequences ready for one forward pass.
#[derive(Debug, Clone)]
pub(crate) struct Pack {
    pub(crate) tree: std::sync::Arc<Tree>,
    pub(crate) targets: std::sync::Arc<[Target]>,
    /// The groups in this pack, by their index in the input.
    pub(crate) groups: Vec<PackedGroup>,
}

/// One group of a pack: where each of its sequences has its targets.
#[derive(Debug, Clone)]
pub(crate) struct PackedGroup {
    pub(crate) index: usize,
    pub(crate) targets: Vec<Range<usize>>,
}

/// Packs groups of sequences, each group whole, into as few packs of at most
/// `rows_max` rows as fit in the order given. A group that is longer alone
/// gets a pack of its own.
pub(crate) fn plan(groups: &[Vec<&Sequence>], rows_max: usize) -> Vec<Pack> {
    let mut packs = Vec::new();
    let mut builder = PackBuilder::default();
    for (index, group) in groups.iter().enumerate() {
        // An upper bound: what the group's own sequences share is not counted.
        let added: usize = group
            .iter()
            .map(|sequence| builder.trie.missing(inputs(sequence)))
            .sum();
        if !builder.groups.is_empty() && builder.trie.len() + added > rows_max {
            packs.push(std::mem::take(&mut builder).finish());
        }
        builder.add(index, group);
    }
    if !builder.groups.is_empty() {
        packs.push(builder.finish());
    }
    packs
}

/// The tokens that predict something: all but the last.
fn inputs(sequence: &Sequence) -> &[u32] {
    &sequence.tokens[..sequence.tokens.len().saturating_sub(1)]
}

#[derive(Default)]
struct PackBuilder {
    trie: Trie,
    /// Targets by node, not yet by row.
    targets: Vec<Target>,
    groups: Vec<PackedGroup>,
}

impl PackBuilder {
    fn add(&mut self, index: usize, group: &[&Sequence]) {
        let mut ranges = Vec::with_capacity(group.len());
        for sequence in group {
            let path = self.trie.insert(inputs(sequence));
            let start = self.targets.len();
            for at in sequence.completion_start.max(1)..sequence.tokens.len() {
                self.targets.push(Target {
                    row: path[at - 1],
                    token: sequence.tokens[at],
                });
            }
            ranges.push(start..self.targets.len());
        }
        self.groups.push(PackedGroup {
            index,
            targets: ranges,
        });
    }

    fn finish(self) -> Pack {
        let (tree, row_of) = self.trie.finish();
        let by_row = |t: &Target| Target {
            row: row_of[t.row],
            token: t.token,
        };
        let targets: Vec<Target> = self.targets.iter().map(by_row).collect();
        Pack {
            tree: tree.into(),
            targets: targets.into(),
            groups: self.groups,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(tokens: &[u32], completion_start: usize) -> Sequence {
        Sequence {
            tokens: tokens.to_vec(),
            completion_start,
        }
    }

    #[test]
    fn shared_prefixes_are_stored_once() {
        let (chosen, rejected) = (sequence(&[1, 2, 3, 9], 2), sequence(&[1, 2, 4, 5, 9], 2));
        let packs = plan(&[vec![&chosen, &rejected]], 100);
        assert_eq!(packs.len(), 1);
        let tree = &packs[0].tree;
        assert_eq!(tree.tokens, [1, 2, 3, 4, 5]);
        assert_eq!(tree.positions, [0, 1, 2, 2, 3]);
        assert_eq!(tree.segments.len(), 3);
        assert_eq!(tree.segments[2].rows, 3..5);
        assert_eq!(tree.segments[2].path().collect::<Vec<_>>(), [0..2, 3..5]);
        let scored: Vec<(usize, u32)> = packs[0].targets.iter().map(|t| (t.row, t.token)).collect();
        assert_eq!(scored, [(1, 3), (2, 9), (1, 4), (3, 5), (4, 9)]);
        assert_eq!(packs[0].groups[0].targets, [0..2, 2..5]);
    }

    #[test]
    fn packs_are_bounded_and_a_long_group_stands_alone() {
        let long: Vec<u32> = (0..50).collect();
        let long = sequence(&long, 1);
        let short: Vec<Sequence> = (0..6).map(|i| sequence(&[7, 100 + i, 8, 9], 2)).collect();
        let mut groups: Vec<Vec<&Sequence>> = short.iter().map(|s| vec![s]).collect();
        groups.insert(3, vec![&long]);
        let packs = plan(&groups, 6);
        assert!(
            packs
                .iter()
                .all(|p| p.tree.tokens.len() <= 6 || p.groups.len() == 1)
        );
        let order: Vec<usize> = packs
            .iter()
            .flat_map(|p| p.groups.iter().map(|g| g.index))
            .collect();
        assert_eq!(order, [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn every_row_sees_its_own_prefix() {
        let sequences = [&[1, 2, 3, 4][..], &[1, 2, 5], &[1, 2, 3, 6, 7], &[8], &[1]];
        let mut trie = Trie::default();
        let paths: Vec<Vec<usize>> = sequences.iter().map(|s| trie.insert(s)).collect();
        let (tree, row_of) = trie.finish();
        for (tokens, path) in sequences.iter().zip(paths) {
            let last = row_of[path[path.len() - 1]];
            let segment = tree.segments.iter().find(|s| s.rows.contains(&last));
            let rows: Vec<usize> = segment
                .into_iter()
                .flat_map(Segment::path)
                .flatten()
                .filter(|&r| r <= last)
                .collect();
            let seen: Vec<u32> = rows.iter().map(|&row| tree.tokens[row]).collect();
            assert_eq!(&seen, tokens);
        }
    }
}
