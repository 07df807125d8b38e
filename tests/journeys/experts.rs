//! The error of each expert and of the layer.

use crate::support::driver::Driver;
use quantscope::quantization::QuantizationScheme;

const SPLIT: &str = "tests/data/formats/fused-experts/split.safetensors";
const FUSED: &str = "tests/data/formats/fused-experts/fused.safetensors";

#[test]
fn the_detail_of_an_expert_says_where_it_stands() {
    let mut driver = Driver::open(SPLIT);
    // The table begins with the worst tensor, which is all of its expert.
    driver.press("Enter");
    let id = driver.app.current_tensor().expect("a tensor");
    let scheme = driver.app.model.scheme_of(id);
    let db = driver.app.model.error(id, scheme).expect("measured").sqnr_db;
    let view = driver.app.model.experts_of_tensor(id).expect("an expert");
    let errors = view.errors.expect("measured");
    assert_eq!(errors.sqnr_db_of(view.expert.expect("one")), Some(db));
    // The third column of the detail, with its sentences on one line.
    let column = |row: &String| row.chars().skip(80).collect::<String>().trim().to_owned();
    let screen = driver.rows().iter().map(column).collect::<Vec<_>>().join(" ");
    let expected = format!("all weights: {db:.1} dB, the worst of 4");
    assert!(screen.contains(&expected), "{expected}: {}", driver.screen());
    let expected = format!("all 4 experts: {:.1} dB", errors.sqnr_db());
    assert!(screen.contains(&expected), "{expected}: {}", driver.screen());
    // Another scheme changes the figures.
    let before = errors.sqnr_db();
    driver.press("Esc a x Down Enter");
    assert_ne!(driver.app.model.scheme_of(id), scheme);
    let view = driver.app.model.experts_of_tensor(id).expect("an expert");
    assert_ne!(view.errors.expect("measured").sqnr_db(), before);
}

#[test]
fn the_row_of_a_layer_of_experts_shows_all_of_them() {
    let mut driver = Driver::open(SPLIT);
    driver.press("t g");
    driver.expect("experts of the layer");
    for label in ["all together", "worst", "best", "mean", "spread"] {
        driver.expect(label);
    }
}

#[test]
fn one_tensor_of_all_experts_shows_each_of_them() {
    let mut driver = Driver::open(FUSED);
    driver.press("Enter");
    let id = driver.app.current_tensor().expect("a tensor");
    assert_eq!(driver.app.model.scheme_of(id), QuantizationScheme::PER_TENSOR);
    let view = driver.app.model.experts_of_tensor(id).expect("experts");
    let errors = view.errors.expect("measured");
    assert_eq!((view.expert, errors.experts.len()), (None, 4));
    let db = driver.app.model.error(id, QuantizationScheme::PER_TENSOR).expect("measured").sqnr_db;
    assert!((errors.sqnr_db() - db).abs() < 1e-6);
    driver.expect("all 4 experts");
}
