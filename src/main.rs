//! Arguments in, exit code out.

use std::process::ExitCode;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// glibc's allocator keeps what a burst of connections took; this one gives it back.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Secrets pass through this process: they are to be neither in core dumps nor in /proc for other processes of this user.
    // Where the kernel has no such switch, there is nothing to be done about it.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // First of all: a library that picks a provider by itself would panic if it found two. It is an error only if somebody
    // was faster, which is nobody here.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    martis_gateway::cli::run()
}
