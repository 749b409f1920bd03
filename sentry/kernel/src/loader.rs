//! Program loading.
use chitin_abi::Errno;
use chitin_mm::Mm;
use chitin_platform::{Platform, PlatformTask};
use chitin_vfs::{Context, File, Path};
use std::sync::Arc;
pub struct LoadRequest { pub stack_limit: u64, pub no_randomize: bool, pub uid: u32, pub euid: u32, pub gid: u32, pub egid: u32, pub secure: bool }
pub struct Program { pub file: Arc<File>, pub path: Vec<u8>, pub args: Vec<Vec<u8>>, pub env: Vec<Vec<u8>> }
pub struct Loaded { pub mm: Arc<Mm>, pub task: Arc<dyn PlatformTask>, pub exe: Path, pub name: Vec<u8> }
pub fn find_in_path(_ctx: &Context, path: &[u8], _env: &[Vec<u8>]) -> Result<Vec<u8>, Errno> { Ok(path.to_vec()) }
pub async fn load(_ctx: Context, _platform: &Arc<dyn Platform>, _program: Program, _options: LoadRequest) -> Result<Loaded, Errno> { Err(Errno::ENOEXEC) }
