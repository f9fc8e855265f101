//! Writes the seeds of this crate's fuzz targets below `tests/fuzz/corpus`.

use sixferry_vectors::fuzz::seeds;
use std::error::Error;
use std::fs;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = serde_json::from_str(&fs::read_to_string(here.join("proto41.json"))?)?;
    for (target, name, data) in seeds(&file)? {
        let directory = here.join("../fuzz/corpus").join(target);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(name), data)?;
    }
    Ok(())
}
