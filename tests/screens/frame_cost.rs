//! The cost of a frame depends only on the visible rows: with 100,000 tensors, drawing allocates
//! no more than with 100.

#![allow(unsafe_code)]

use crate::support::checkpoint as made;
use crate::support::driver::Driver;
use quantscope::app::Event;
use quantscope::app::keys::Key;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is forwarded to the system allocator unchanged. Counting uses a thread-local
// that needs neither allocation nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller upholds the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn model(layers: usize) -> Driver {
    let parts = ["attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down", "norm.a", "norm.b"];
    let tensors: Vec<made::Tensor> = (100..100 + layers)
        .flat_map(|layer| parts.map(|part| format!("model.layers.{layer}.{part}.weight")))
        .map(|name| made::f32s(&name, &[1, 2], [1.0, 0.3]))
        .collect();
    Driver::of(made::in_memory(&tensors), false)
}

fn allocations_of_a_frame(driver: &Driver) -> usize {
    let area = Rect::new(0, 0, 120, 36);
    let mut buffer = Buffer::empty(area);
    let before = ALLOCATIONS.get();
    quantscope::ui::render(&mut buffer, area, &driver.app, &driver.theme);
    ALLOCATIONS.get() - before
}

#[test]
fn only_visible_rows_are_built() {
    let (mut small, mut large) = (model(12), model(12_500));
    assert_eq!(large.app.table.rows().len(), 100_000);
    for keys in [vec![], vec!['/', 'a', 't', 't', 'n'], vec!['\n', 't'], vec!['a']] {
        for key in keys {
            let key = if key == '\n' { Key::Enter } else { Key::Char(key) };
            small.send(Event::Key(key));
            large.send(Event::Key(key));
        }
        let (few, many) = (allocations_of_a_frame(&small), allocations_of_a_frame(&large));
        assert!(many <= few + few / 4 + 50, "{few} allocations for 96 tensors, {many} for 100,000");
    }
}
