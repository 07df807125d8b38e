fn main() {
    println!("quantscope {}", env!("CARGO_PKG_VERSION"));
}
