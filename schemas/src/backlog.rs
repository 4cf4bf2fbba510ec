//! What waits for somebody who may be slow: bounded, in order, and what did not fit is marked where it is missing. Pure.
//!
//! Both ends of a live connection keep one, so that whoever runs a job never waits for whoever watches it.

use std::collections::VecDeque;

/// What an entry costs beyond its bytes, so that many small ones are bounded like few large ones.
const ENTRY_COST_BYTES: usize = 64;

/// How much of a stream was left out in one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Bytes.
    pub bytes: u64,
    /// Pieces in which they came, as far as that is known.
    pub chunks: u64,
}

impl Lost {
    /// Both together.
    pub fn and(self, more: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(more.bytes), chunks: self.chunks.saturating_add(more.chunks) }
    }
}

/// One thing in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<K, E> {
    /// Bytes of a stream.
    Data(K, Vec<u8>),
    /// Bytes of a stream are missing here.
    Lost(K, Lost),
    /// Anything else. Never left out.
    Entry(E),
}

/// See the module. `K` tells streams apart; `E` is what is not data.
#[derive(Clone, Debug)]
pub struct Backlog<K, E> {
    items: VecDeque<Item<K, E>>,
    cost: usize,
    bytes_max: usize,
    chunk_max: usize,
}

impl<K: Clone + PartialEq, E> Backlog<K, E> {
    /// An empty one that holds data of `bytes_max`, small costs of each piece included, and gives pieces of at most
    /// `chunk_max` bytes where smaller ones came.
    pub fn new(bytes_max: usize, chunk_max: usize) -> Self {
        Self { items: VecDeque::new(), cost: 0, bytes_max, chunk_max }
    }

    /// Adds a piece of a stream, or counts it as lost when there is no room. Small pieces of one stream become one.
    pub fn data(&mut self, stream: &K, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        if let Some(Item::Data(last, bytes)) = self.items.back_mut()
            && last == stream
            && bytes.len() + data.len() <= self.chunk_max
            && self.cost + data.len() <= self.bytes_max
        {
            bytes.extend_from_slice(data);
            self.cost += data.len();
            return;
        }
        if !self.has_room_for(data.len()) {
            self.lost(stream, Lost { bytes: data.len() as u64, chunks: 1 });
            return;
        }
        self.cost += data.len() + ENTRY_COST_BYTES;
        self.items.push_back(Item::Data(stream.clone(), data.to_vec()));
    }

    /// Marks that something is missing here. Marks with nothing between them become one for each stream.
    pub fn lost(&mut self, stream: &K, lost: Lost) {
        let marks = self.items.iter_mut().rev().map_while(|item| match item {
            Item::Lost(of, lost) => Some((of, lost)),
            _ => None,
        });
        match marks.into_iter().find(|(of, _)| *of == stream) {
            Some((_, mark)) => *mark = mark.and(lost),
            None => self.items.push_back(Item::Lost(stream.clone(), lost)),
        }
    }

    /// Adds what is not data. The caller bounds how many there are.
    pub fn put(&mut self, entry: E) {
        self.items.push_back(Item::Entry(entry));
    }

    /// The next thing.
    pub fn take(&mut self) -> Option<Item<K, E>> {
        let item = self.items.pop_front()?;
        if let Item::Data(_, data) = &item {
            self.cost -= data.len() + ENTRY_COST_BYTES;
        }
        Some(item)
    }

    /// Whether a piece of this size would be kept.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.cost + bytes + ENTRY_COST_BYTES <= self.bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(backlog: &mut Backlog<u8, char>) -> Vec<Item<u8, char>> {
        std::iter::from_fn(|| backlog.take()).collect()
    }

    #[test]
    fn small_pieces_become_one_and_streams_keep_their_order() {
        let mut backlog = Backlog::new(1000, 4);
        for (stream, data) in [(1, "ab"), (1, "cd"), (1, "e"), (2, "x"), (1, "f"), (1, "")] {
            backlog.data(&stream, data.as_bytes());
        }
        backlog.put('!');
        backlog.data(&1, b"g");
        let data = |stream, text: &str| Item::Data(stream, text.into());
        let expected =
            [data(1, "abcd"), data(1, "e"), data(2, "x"), data(1, "f"), Item::Entry('!'), data(1, "g")];
        assert_eq!(all(&mut backlog), expected);
    }

    #[test]
    fn what_does_not_fit_is_marked_where_it_is_missing() {
        let mut backlog = Backlog::new(2 * (10 + ENTRY_COST_BYTES), 10);
        for _ in 0..4 {
            backlog.data(&1, b"0123456789");
        }
        backlog.data(&2, b"abc");
        backlog.data(&1, b"!");
        backlog.put('x');
        assert!(matches!(backlog.take(), Some(Item::Data(1, _))));
        backlog.data(&1, b"again");
        let lost = |bytes, chunks| Lost { bytes, chunks };
        let rest = all(&mut backlog);
        assert_eq!(rest[0], Item::Data(1, b"0123456789".into()));
        assert_eq!(rest[1..3], [Item::Lost(1, lost(21, 3)), Item::Lost(2, lost(3, 1))]);
        assert_eq!(rest[3..], [Item::Entry('x'), Item::Data(1, b"again".into())]);
        assert!(backlog.has_room_for(10), "what was taken gives its room back");
    }

    #[test]
    fn however_it_is_used_it_holds_no_more_than_it_may_and_the_sums_are_right() {
        let (mut backlog, mut given, mut got) = (Backlog::<u8, char>::new(4096, 256), 0, 0);
        let mut count = |item| match item {
            Item::Data(_, data) => got += data.len() as u64,
            Item::Lost(_, lost) => got += lost.bytes,
            Item::Entry(_) => {}
        };
        for step in 0..10_000_usize {
            let piece = vec![0; step * 7919 % 300];
            given += piece.len() as u64;
            backlog.data(&((step % 2) as u8), &piece);
            assert!(backlog.cost <= 4096 && backlog.items.len() <= 4096 / ENTRY_COST_BYTES * 3 + 2);
            if step % 5 == 0
                && let Some(item) = backlog.take()
            {
                count(item);
            }
        }
        all(&mut backlog).into_iter().for_each(&mut count);
        assert_eq!(given, got);
        assert_eq!(backlog.cost, 0);
    }
}
