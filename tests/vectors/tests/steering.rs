//! The steering frames of the project's vector file, through the real XDP program.

#![cfg(feature = "steering")]

use sixferry_vectors::schema::VectorFile;
use sixferry_vectors::steering::{config, run};
use sixferry_xsk::SteeringHarness;

#[test]
#[ignore = "needs root"]
fn every_steering_frame_goes_where_it_belongs() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/proto41.json"))
        .expect("proto41.json");
    let file: VectorFile = serde_json::from_str(&text).expect("schema");
    assert_eq!(file.steering.len(), 14);
    let mut harness = SteeringHarness::new(&config(&file)).expect("program loads");
    for frame in &file.steering {
        run(&mut harness, frame).unwrap_or_else(|error| panic!("{}: {error}", frame.name));
    }
}
