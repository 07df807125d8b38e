fn main() -> color_eyre::Result<()> {
    color_eyre::install()?;
    let path = std::env::args().nth(1).unwrap_or("assets/demo.safetensors".into());
    let checkpoint = quantscope::checkpoint::Checkpoint::open(path.as_ref())?;
    quantscope::terminal::run(checkpoint.into(), Default::default())
}
