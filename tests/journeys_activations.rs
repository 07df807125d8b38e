//! Journeys with recorded activations: opened, looked at, ranked by, and spent a budget by.

mod support;

use quantscope::app::Event;
use support::checkpoint::{Tensor, weights, write};
use support::driver::{DEMO, Driver, TINY_LLAMA};

/// The rows of the table, from the top.
fn names(driver: &Driver, count: usize) -> Vec<String> {
    let table = &driver.app.table;
    let rows = table.rows().iter().take(count);
    rows.map(|&row| driver.app.full_name(row).to_owned()).collect()
}

#[test]
fn captures_are_opened_and_the_table_is_ordered_by_the_outputs() {
    let mut driver = Driver::open(DEMO);
    driver.resize(150, 40);
    assert!(!driver.shows("output"), "nobody has recorded anything yet");
    assert_eq!(names(&driver, 2), ["features.13.weight", "classifier.0.weight"]);
    driver.press("A");
    driver.expect("Open recorded activations");
    driver.type_text("demo:");
    driver.press("Enter");
    driver.expect("outputs of 8 layers measured");
    driver.expect("−40.3 dB");
    // The cursor's tensor, in three ways.
    driver.expect("– dynamic");
    driver.expect("−38.5 dB");
    driver.expect("−37.3 dB");
    driver.press(">");
    driver.expect("worst output error first");
    assert_eq!(names(&driver, 2), ["features.13.weight", "features.3.weight"]);
    driver.press("o");
    driver.expect("best output error first");
    assert_eq!(names(&driver, 1), ["classifier.2.weight"]);
    driver.press("o");
    // A scheme of its own has its own figure.
    driver.press("g Space x");
    assert!(!driver.shows("−40.3 dB"));
}

#[test]
fn the_demo_opens_its_captures_by_itself() {
    let mut driver = Driver::open_waiting(DEMO);
    driver.resize(150, 40);
    driver.app.activations = vec!["demo:".into()];
    driver.send(Event::Opened);
    driver.release();
    driver.expect("output");
    driver.expect("−40.3 dB");
}

#[test]
fn without_captures_no_order_is_by_outputs() {
    let mut driver = Driver::open(DEMO);
    for _ in 0..20 {
        driver.press(">");
        assert!(!driver.shows("output error"), "{}", driver.screen());
    }
    for _ in 0..20 {
        driver.press("<");
        assert!(!driver.shows("output error"), "{}", driver.screen());
    }
}

#[test]
fn captures_of_another_model_are_refused_with_a_sentence() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("A");
    driver.type_text("demo:");
    driver.press("Enter");
    driver.expect("No activations");
    driver.expect_words("nothing recorded in it is of a layer of");
    driver.press("Esc");
    assert!(driver.app.model.outputs.is_none());
}

#[test]
fn a_layer_that_cannot_be_measured_is_marked() {
    let mut driver = Driver::open(DEMO);
    driver.resize(150, 40);
    let mut bad = weights("classifier.0.input", &[2, 128]);
    bad.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let tensors: [Tensor; 3] =
        [bad, weights("classifier.2.input", &[2, 64]), weights("gone.input", &[2, 64])];
    let path = driver.path("captures.safetensors");
    write(&path, &tensors, &[]);
    driver.press("A");
    driver.type_text(path.to_str().expect("text"));
    driver.press("Enter");
    driver.expect("outputs of 1 layer measured, 1 not");
    driver.expect("unreadable");
}

/// The curve is that of the outputs, and so other marks come of it.
#[test]
fn the_budget_is_spent_by_the_outputs() {
    let marks = |activations: bool| -> Vec<u32> {
        let mut driver = Driver::open(DEMO);
        if activations {
            driver.press("A");
            driver.type_text("demo:");
            driver.press("Enter");
        }
        driver.press("b");
        driver.expect(if activations { "of the outputs" } else { "of the weights" });
        driver.press("Left Left Left Enter");
        driver.app.model.plan().iter().map(|(id, _)| id.0).collect()
    };
    let (by_weights, by_outputs) = (marks(false), marks(true));
    assert_ne!(by_weights, by_outputs);
}
