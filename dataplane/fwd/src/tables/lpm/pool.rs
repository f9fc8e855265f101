//! Arrays handed out in blocks: one for nodes, one for values.

use crate::tables::cow::{CHUNK, CowVec};
use arrayvec::ArrayVec;

/// Room a block may have, so that no more than a third of it is idle. None crosses a chunk.
const SIZES: [u32; 12] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];
const MOST: usize = 64;
#[expect(clippy::cast_possible_truncation, reason = "it is 512")]
const IN_CHUNK: u32 = CHUNK as u32;
/// Index of "no block".
const NO_BLOCK: u32 = u32::MAX;

/// For each count, which size holds it.
#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "evaluated at compile time"
)]
const CLASSES: [u8; MOST + 1] = {
    let mut table = [0; MOST + 1];
    let mut count = 1;
    while count <= MOST {
        let mut class = table[count - 1];
        while SIZES[class as usize] < count as u32 {
            class += 1;
        }
        table[count] = class;
        count += 1;
    }
    table
};

/// What lies in a pool. The first element of a block that is free says where the next one is, so free
/// blocks take no room of their own and a snapshot does not copy a list of them.
pub(super) trait Element: Copy {
    const EMPTY: Self;

    fn linking_to(next: u32) -> Self;

    fn link(self) -> u32;
}

impl Element for u32 {
    const EMPTY: Self = 0;

    fn linking_to(next: u32) -> Self {
        next
    }

    fn link(self) -> u32 {
        self
    }
}

#[derive(Clone, Debug)]
pub(super) struct Pool<T> {
    items: CowVec<T>,
    /// By size, the first free block.
    free: [u32; SIZES.len()],
    /// Elements that have ever been in a block.
    end: u32,
    /// Elements in blocks that are not free.
    used: u32,
}

impl<T: Element> Pool<T> {
    pub(super) fn new() -> Self {
        Self {
            items: CowVec::new(),
            free: [NO_BLOCK; SIZES.len()],
            end: 0,
            used: 0,
        }
    }

    #[inline]
    pub(super) fn get(&self, index: u32) -> Option<&T> {
        self.items.get(index as usize)
    }

    /// Both lines of an item that lies in two: every fourth node does.
    #[inline]
    pub(super) fn prefetch(&self, index: u32) {
        self.items.prefetch_both(index as usize);
    }

    pub(super) fn set(&mut self, index: u32, item: T) {
        self.items.set(index as usize, item);
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.used == 0
    }

    pub(super) fn bytes(&self) -> usize {
        self.items.bytes()
    }

    /// Puts `item` in at `nth` of a block that has `count` (0: of none); returns where the block is now.
    pub(super) fn insert(&mut self, block: u32, count: u32, nth: u32, item: T) -> u32 {
        let (n, nth) = (count as usize, nth as usize);
        if count > 0 && count < room(count) {
            if let Some(items) = self.items.slice_mut(block as usize, n + 1) {
                items.copy_within(nth..n, nth + 1);
                items.iter_mut().skip(nth).take(1).for_each(|it| *it = item);
            }
            return block;
        }
        let kept = self.read(block, n);
        let new = self.alloc(count + 1);
        let (before, after) = (kept.iter().take(nth), kept.iter().skip(nth));
        self.write(new, before.chain([&item]).chain(after));
        if count > 0 {
            self.release(block, count);
        }
        new
    }

    /// Takes the `nth` out of a block that has `count`; returns where the block is now.
    pub(super) fn remove(&mut self, block: u32, count: u32, nth: u32) -> u32 {
        if count <= 1 {
            self.release(block, 1);
            return 0;
        }
        let (n, nth) = (count as usize, nth as usize);
        if room(count - 1) == room(count) {
            if let Some(items) = self.items.slice_mut(block as usize, n) {
                items.copy_within(nth + 1.., nth);
            }
            return block;
        }
        let kept = self.read(block, n);
        let new = self.alloc(count - 1);
        self.write(new, kept.iter().take(nth).chain(kept.iter().skip(nth + 1)));
        self.release(block, count);
        new
    }

    /// Gives back a block that has `count`.
    pub(super) fn release(&mut self, block: u32, count: u32) {
        self.used -= room(count);
        if self.used == 0 {
            *self = Self::new();
        } else {
            self.push(block, class(count));
        }
    }

    fn read(&self, block: u32, count: usize) -> ArrayVec<T, MOST> {
        let items = self.items.slice(block as usize, count).unwrap_or(&[]);
        items.iter().copied().take(MOST).collect()
    }

    fn write<'t>(&mut self, block: u32, items: impl Iterator<Item = &'t T>)
    where
        T: 't,
    {
        for (index, item) in (block..).zip(items) {
            self.set(index, *item);
        }
    }

    fn alloc(&mut self, count: u32) -> u32 {
        let size = room(count);
        self.used += size;
        let classes = SIZES.into_iter().enumerate().skip(class(count));
        for (class, larger) in classes {
            if let Some(block) = self.pop(class) {
                self.split(block + size, larger - size);
                return block;
            }
        }
        let left = IN_CHUNK - self.end % IN_CHUNK;
        if left < size {
            self.split(self.end, left);
            self.end += left;
        }
        let block = self.end;
        self.end += size;
        self.items.reserve(block as usize, T::EMPTY);
        block
    }

    /// Makes free blocks of `count` elements from `start` on.
    fn split(&mut self, mut start: u32, mut count: u32) {
        while count > 0 {
            let fits = |size: &u32| *size <= count;
            let class = SIZES.iter().rposition(fits).unwrap_or(0);
            self.push(start, class);
            let size = SIZES.get(class).copied().unwrap_or(1);
            start += size;
            count -= size;
        }
    }

    fn push(&mut self, block: u32, class: usize) {
        if let Some(first) = self.free.get_mut(class) {
            let next = std::mem::replace(first, block);
            self.set(block, T::linking_to(next));
        }
    }

    fn pop(&mut self, class: usize) -> Option<u32> {
        let first = self.free.get_mut(class)?;
        let block = *first;
        *first = self.items.get(block as usize)?.link();
        Some(block)
    }

    /// Elements that are in a block and not in a free one, counted by going through all free ones.
    #[cfg(test)]
    pub(super) fn in_use(&self) -> usize {
        let mut free = 0;
        for (first, size) in self.free.iter().zip(SIZES) {
            let mut block = *first;
            while let Some(item) = self.get(block) {
                free += size as usize;
                block = item.link();
            }
        }
        assert_eq!(self.end as usize - free, self.used as usize);
        self.used as usize
    }
}

fn class(count: u32) -> usize {
    CLASSES.get(count as usize).copied().unwrap_or(0).into()
}

/// Room of a block that has `count`.
fn room(count: u32) -> u32 {
    SIZES.get(class(count)).copied().unwrap_or(1)
}
