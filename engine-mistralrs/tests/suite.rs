//! The engine keeps what every engine must: the real model, a GGUF file with
//! Q4_1 matrices and a head that is its embedding in Q8_0.

use std::time::Duration;

use engine::Engine as _;
use engine::conformance::{self, Fixture};
use engine_mistralrs::MistralOptions;
use model::{BaseModel, ModelConfig};

use crate::support::{open, package, real_model};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite() {
    let config = BaseModel::open(&real_model()).unwrap().config;
    let options = MistralOptions {
        running_max: 3,
        // more than the suite sends at once: a place comes back a moment after
        // the last event
        waiting_max: 12,
        context_length_max: Some(512),
        // one at a time, on a machine that may be busy with others
        queue_wait_max: Duration::from_secs(1200),
        ..MistralOptions::default()
    };
    let wider = ModelConfig {
        hidden_size: config.hidden_size + 32,
        ..config.clone()
    };
    let fixture = Fixture {
        adapters: [package(&config, 1, 1e-3), package(&config, 2, 1e-3)],
        misfit: package(&wider, 3, 1e-3),
    };
    let engine = open(real_model(), options).await;
    if !cfg!(feature = "cuda") {
        assert_eq!(engine.capacity().running_max, 1, "batches on a CPU");
    }
    conformance::run(&engine, &fixture).await.unwrap();
    engine.shutdown().await;
}
