//! Program loading for execve(2): scripts, ELF programs and their interpreters (fs/exec.c, fs/binfmt_*.c).
//!
//! Neighbours: `exec` asks for it; `mm` and the platform hold what is loaded.
//!
//! - [`args`]: arguments from guest memory, and how long they may be;
//! - [`script`]: "#!"; [`elf`]: headers, checked; [`layout`]: where everything goes; [`stack`]: what the program finds
//!   on its stack; [`image`]: the address space itself.
//!
//! All errors Linux finds before its point of no return are found before the new address space is made. What fails after
//! that leaves the old program untouched all the same, since the new space is a process of its own.
//!
//! Everything in an ELF file is the guest's: arithmetic on it is checked.

mod args;
mod elf;
mod image;
mod layout;
mod script;
mod stack;
#[cfg(test)]
mod tests;

pub use args::{check_size, read_strings};

use chitin_abi::Errno;
use chitin_mm::Mm;
use chitin_platform::{BoxFuture, PlatformError, PlatformTask, Spawned};
use chitin_vfs::walk::Walk;
use chitin_vfs::{Context, File, Path};
use std::sync::Arc;

/// Scripts that may be each other's interpreters (exec_binprm()).
const MAX_SCRIPTS: usize = 5;

/// The longest "#!" line looked at (BINPRM_BUF_SIZE).
const HEAD_SIZE: usize = 256;

/// What depends on the process and its new credentials.
#[derive(Clone, Copy, Debug)]
pub struct LoadRequest {
    /// RLIMIT_STACK.
    pub stack_limit: u64,
    /// ADDR_NO_RANDOMIZE.
    pub no_randomize: bool,
    pub uid: u32,
    pub euid: u32,
    pub gid: u32,
    pub egid: u32,
    /// Its clocks are not the host's, which the vDSO would show.
    pub own_time: bool,
    /// AT_SECURE.
    pub secure: bool,
}

/// What to execute.
pub struct Program {
    /// Opened and checked for execution.
    pub file: Arc<File>,
    /// The path as the caller gave it.
    pub path: Vec<u8>,
    pub args: Vec<Vec<u8>>,
    pub env: Vec<Vec<u8>>,
}

/// A loaded program: a new address space with a stopped task in it, its registers set.
pub struct Loaded {
    pub mm: Arc<Mm>,
    pub task: Arc<dyn PlatformTask>,
    /// `None`: the file has no path (a memfd).
    pub exe: Option<Path>,
    /// Keeps the program's file from being written to.
    pub text: DenyWrite,
    /// The thread's name.
    pub name: Vec<u8>,
}

/// A file that is being executed: opening it for writing is ETXTBSY until this is dropped.
pub struct DenyWrite {
    file: Arc<File>,
}

impl DenyWrite {
    /// ETXTBSY while somebody has it open for writing.
    fn new(file: &Arc<File>) -> Result<DenyWrite, Errno> {
        file.inode().state().start_exec()?;
        Ok(DenyWrite { file: file.clone() })
    }

    pub fn file(&self) -> &Arc<File> {
        &self.file
    }
}

impl Drop for DenyWrite {
    fn drop(&mut self) {
        self.file.inode().state().end_exec();
    }
}

/// Reads from a file until the buffer is full or the file ends.
fn read_file(file: &File, mut pos: u64, buf: &mut [u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while let Some(mut rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let count = file.ops().read(pos, &mut rest)?;
        if count == 0 {
            break;
        }
        done = done.saturating_add(count);
        pos = pos.saturating_add(count as u64);
    }
    Ok(done)
}

/// Replaces scripts by their interpreters until there is a program of another kind: credentials follow from its file.
pub fn resolve(ctx: &Context, mut program: Program) -> Result<Program, Errno> {
    let original = program.path.clone();
    let mut current = original.clone();
    for depth in 0.. {
        if depth > MAX_SCRIPTS {
            return Err(Errno::ELOOP);
        }
        let _text = DenyWrite::new(&program.file)?;
        let mut head = [0; HEAD_SIZE];
        read_file(&program.file, 0, &mut head)?;
        if !head.starts_with(b"#!") {
            break;
        }
        let script = script::parse(&head)?;
        script::rewrite(&mut program.args, &script, &current);
        program.file = ctx.open_exec(&ctx.cwd, &script.interpreter, Walk::FOLLOW)?;
        current = script.interpreter;
    }
    program.path = original;
    Ok(program)
}

/// Loads a program into what `space` makes once it is needed; see the module for what errors mean.
pub async fn load(
    ctx: Context,
    space: BoxFuture<Result<Spawned, PlatformError>>,
    program: Program,
    request: LoadRequest,
) -> Result<Loaded, Errno> {
    let mut program = program;
    if program.args.is_empty() {
        // As since Linux 5.18: nobody finds an environment where argv[0] should be.
        program.args.push(Vec::new());
    }
    check_size(&program, request.stack_limit)?;
    let program = resolve(&ctx, program)?;
    check_size(&program, request.stack_limit)?;
    let main = elf::Elf::read(&program.file, elf::Role::Program)?;
    let interpreter = match &main.interpreter {
        Some(path) => {
            let file = ctx.open_exec(&ctx.cwd, path, Walk::FOLLOW)?;
            let elf = elf::Elf::read(&file, elf::Role::Interpreter)?;
            Some((file, elf))
        }
        None => None,
    };
    image::load(&ctx, space, &program, main, interpreter, &request).await
}

/// The thread's name after execve: the last component of the path.
fn comm(path: &[u8]) -> Vec<u8> {
    let base = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
    base.get(..base.len().min(chitin_abi::limits::TASK_COMM_LEN - 1)).unwrap_or_default().to_vec()
}

/// Finds a program of the runtime's along the last PATH in `env`, as runc does for process.args: names with a slash are
/// taken as they are, and empty entries of PATH, which would be the working directory, are passed over.
pub fn find_in_path(ctx: &Context, name: &[u8], env: &[Vec<u8>]) -> Result<Vec<u8>, Errno> {
    if name.contains(&b'/') {
        return Ok(name.to_vec());
    }
    const DEFAULT: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix(b"PATH=")).unwrap_or(DEFAULT);
    let mut answer = Errno::ENOENT;
    for dir in path.split(|&byte| byte == b':').filter(|dir| !dir.is_empty() && !name.is_empty()) {
        let candidate = [dir, b"/", name].concat();
        match ctx.open_exec(&ctx.cwd, &candidate, Walk::FOLLOW) {
            Ok(_) => return Ok(candidate),
            Err(Errno::EACCES) => answer = Errno::EACCES,
            Err(_) => {}
        }
    }
    Err(answer)
}
