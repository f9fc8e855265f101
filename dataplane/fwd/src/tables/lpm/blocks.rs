//! Room for nodes and values.

/// Room of a block that holds `count`.
pub(super) const fn block_size(count: u32) -> u32 {
    count.next_power_of_two()
}

/// Hands out blocks of 1, 2, 4 … 64 aligned to their size.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    pub(super) end: u32,
    free: [Vec<u32>; 7],
}

impl Blocks {
    pub(super) fn alloc(&mut self, count: u32) -> u32 {
        let class = block_size(count).trailing_zeros() as usize;
        if let Some(block) = self.free.get_mut(class).and_then(Vec::pop) {
            return block;
        }
        // split the next larger free block, else take fresh space
        for larger in class + 1..self.free.len() {
            if let Some(block) = self.free.get_mut(larger).and_then(Vec::pop) {
                for size in class..larger {
                    if let Some(list) = self.free.get_mut(size) {
                        list.push(block + (1 << size));
                    }
                }
                return block;
            }
        }
        let size = block_size(count);
        let start = self.end.next_multiple_of(size);
        let mut gap = self.end;
        while gap < start {
            let piece = gap.trailing_zeros().min((start - gap).ilog2());
            if let Some(list) = self.free.get_mut(piece as usize) {
                list.push(gap);
            }
            gap += 1 << piece;
        }
        self.end = start + size;
        start
    }

    pub(super) fn free(&mut self, block: u32, count: u32) {
        if let Some(list) = self
            .free
            .get_mut(block_size(count).trailing_zeros() as usize)
        {
            list.push(block);
        }
    }
}
