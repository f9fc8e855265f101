//! A growable array in chunks that a snapshot shares until one of them changes.
//!
//! The builder changes its copy; [`Clone`] gives the snapshot. Only the chunks touched since the last
//! snapshot are copied, so a change costs a few kilobytes and not the table.

use std::sync::Arc;

/// Elements in a chunk.
pub(crate) const CHUNK: usize = 512;
const SHIFT: u32 = CHUNK.trailing_zeros();
const MASK: usize = CHUNK - 1;

pub(super) type Chunk<T> = [T; CHUNK];

#[derive(Clone, Debug)]
pub(crate) struct CowVec<T> {
    chunks: Arc<Vec<Arc<Chunk<T>>>>,
}

/// The chunks of a [`CowVec`], found once for all packets of a batch.
#[derive(Debug)]
pub(crate) struct Chunks<'a, T>(&'a [Arc<Chunk<T>>]);

impl<T> Clone for Chunks<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Chunks<'_, T> {}

impl<'a, T> Chunks<'a, T> {
    #[inline]
    pub(super) const fn new(chunks: &'a [Arc<Chunk<T>>]) -> Self {
        Self(chunks)
    }

    #[inline]
    pub(crate) fn get(self, index: usize) -> Option<&'a T> {
        self.0.get(index >> SHIFT)?.get(index & MASK)
    }

    /// Brings the element's cache line in without waiting for it.
    #[inline]
    pub(crate) fn prefetch(self, index: usize) {
        if let Some(chunk) = self.0.get(index >> SHIFT) {
            prefetch_index::prefetch_index(chunk.as_slice(), index & MASK);
        }
    }
}

impl<T> CowVec<T> {
    #[inline]
    pub(crate) fn chunks(&self) -> Chunks<'_, T> {
        Chunks::new(&self.chunks)
    }
}

impl<T: Copy> CowVec<T> {
    pub(crate) fn new() -> Self {
        Self {
            chunks: Arc::new(Vec::new()),
        }
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.chunks().get(index)
    }

    /// Brings the element's cache line in without waiting for it.
    #[inline]
    pub(crate) fn prefetch(&self, index: usize) {
        self.chunks().prefetch(index);
    }

    /// [`CowVec::prefetch`] for elements that may lie in two lines.
    #[inline]
    pub(crate) fn prefetch_both(&self, index: usize) {
        if let Some(chunk) = self.chunks.get(index >> SHIFT) {
            prefetch_index::prefetch_index(chunk.as_slice(), index & MASK);
            prefetch_index::prefetch_index(chunk.as_slice(), (index & MASK) + 1);
        }
    }

    /// Elements there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    /// Makes room for `index`, new elements being `fill`.
    pub(crate) fn reserve(&mut self, index: usize, fill: T) {
        while self.capacity() <= index {
            Arc::make_mut(&mut self.chunks).push(Arc::new([fill; CHUNK]));
        }
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        let chunk = Arc::make_mut(&mut self.chunks).get_mut(index >> SHIFT)?;
        Arc::make_mut(chunk).get_mut(index & MASK)
    }

    /// `count` elements from `start` on, if one chunk has them all.
    pub(crate) fn slice(&self, start: usize, count: usize) -> Option<&[T]> {
        let from = start & MASK;
        self.chunks.get(start >> SHIFT)?.get(from..from + count)
    }

    pub(crate) fn slice_mut(&mut self, start: usize, count: usize) -> Option<&mut [T]> {
        let chunk = Arc::make_mut(&mut self.chunks).get_mut(start >> SHIFT)?;
        let from = start & MASK;
        Arc::make_mut(chunk).get_mut(from..from + count)
    }

    pub(crate) fn set(&mut self, index: usize, value: T) {
        if let Some(slot) = self.get_mut(index) {
            *slot = value;
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.capacity() * size_of::<T>() + self.chunks.len() * size_of::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_keeps_what_it_had() {
        let mut v = CowVec::new();
        v.reserve(1000, 0u32);
        v.set(7, 1);
        let snapshot = v.clone();
        v.set(7, 2);
        v.set(1000, 9);
        assert_eq!(snapshot.get(7), Some(&1));
        assert_eq!(snapshot.get(1000), Some(&0));
        assert_eq!((v.get(7), v.get(1000)), (Some(&2), Some(&9)));
        assert!(v.get(1024).is_none());
    }
}
