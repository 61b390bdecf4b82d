//! Measures prefill and decoding of the native engine: `bench MODEL.gguf [threads] [rounds]`.
//! Prints one JSON line a round.

use std::sync::Arc;

use engine::bench;
use engine::native::{NativeEngine, NativeOptions};
use model::BaseModel;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the result of the program")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args
        .next()
        .ok_or("usage: bench MODEL.gguf [threads] [rounds]")?;
    let threads = args.next().map_or(Ok(0), |arg| arg.parse())?;
    let rounds: u32 = args.next().map_or(Ok(5), |arg| arg.parse())?;
    let model = Arc::new(BaseModel::open(path.as_ref())?);
    let options = NativeOptions {
        threads,
        prefill_chunk_tokens: 512,
        ..NativeOptions::default()
    };
    let engine = NativeEngine::start(model, options)?;
    let long = bench::conversation(&engine, 512).await?;
    let short = bench::conversation(&engine, 40).await?;
    bench::measure(&engine, short.clone(), 16).await?;
    for _ in 0..rounds {
        let prefill = bench::measure(&engine, long.clone(), 2)
            .await?
            .prefill_rate();
        let decode = bench::measure(&engine, short.clone(), 128)
            .await?
            .decode_rate();
        println!("{{\"prefill\":{prefill:.1},\"decode\":{decode:.1}}}");
    }
    engine.shutdown().await;
    Ok(())
}
