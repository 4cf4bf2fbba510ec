//! The parts of a restore that go on at once: copying memory and disk, starting QEMU and the vsock daemon.

use std::{fs::File, io, path::Path};

use hearth_schemas::manifest::Transport;
use tokio::{net::UnixListener, time::timeout};

use super::{DAEMON_LOG, Making, QEMU_LOG, STEP_LIMIT, host, refused, vmm};
use crate::{
    hypervisor::RestoreError,
    net::Network,
    qemu::{
        arguments::{MachineSpec, Start, arguments},
        qmp::Qmp,
    },
    vm::clone::{StopOnDrop, clone_file},
};

impl Making<'_> {
    /// The scratch disk with its size, which QEMU reads when it starts, and nothing in it.
    pub(super) fn empty_scratch(&self) -> Result<File, RestoreError> {
        let size = self.snapshot.manifest.machine.scratch_mib << 20;
        let made = File::options().read(true).write(true).create_new(true).open(&self.scratch);
        made.and_then(|file| file.set_len(size).map(|()| file)).map_err(host("make the scratch disk"))
    }

    pub(super) async fn clone_files(&self, scratch: File) -> Result<(), RestoreError> {
        let mut pairs = vec![(self.snapshot.scratch(), scratch)];
        if self.qemu.memory_is_copied() {
            pairs.push((self.snapshot.memory(), self.memory.file.try_clone().map_err(host("share memory"))?));
        }
        let stop = StopOnDrop::default();
        let flag = stop.flag();
        let copied = tokio::task::spawn_blocking(move || -> io::Result<()> {
            for (source, target) in pairs {
                clone_file(&File::open(source)?, &target, &flag)?;
            }
            Ok(())
        });
        let copied = copied.await.map_err(|error| host("copy memory and disk")(error.into()))?;
        copied.map_err(host("copy memory and disk"))
    }

    pub(super) async fn start_qemu(&self) -> Result<(Qmp, u32), RestoreError> {
        let machine = &self.snapshot.manifest.machine;
        let copied = self.qemu.memory_is_copied();
        let template = self.snapshot.memory();
        let spec = MachineSpec {
            accelerator: self.snapshot.manifest.accelerator,
            vcpus: machine.vcpus,
            memory_mib: machine.vm_memory_mib,
            memory: if copied { &self.memory.path } else { &template },
            memory_shared: copied,
            root: &self.snapshot.root(),
            scratch: &self.scratch,
            qmp: Path::new("qmp"),
            tap: self.network.as_deref().map(Network::tap),
        };
        // We listen and QEMU connects: nobody has to look whether a socket is there yet.
        let listener = UnixListener::bind(self.directory.join("qmp")).map_err(host("listen for QMP"))?;
        let mut argv = self.network.as_deref().map(Network::entered).unwrap_or_default();
        argv.push(self.qemu.config.qemu.display().to_string());
        argv.extend(arguments(&spec, &Start::Incoming));
        let spawned = self.qemu.guard.spawn(&self.name, argv, QEMU_LOG).await;
        let pid = spawned.map_err(|error| refused(&error, &self.identity))?;
        let accepted = timeout(STEP_LIMIT, listener.accept()).await;
        let accepted = accepted.map_err(|_| RestoreError::Timeout { step: "start", limit: STEP_LIMIT })?;
        let (socket, _) = accepted.map_err(host("accept QMP"))?;
        Ok((Qmp::open(socket, STEP_LIMIT).await.map_err(vmm)?, pid))
    }

    pub(super) async fn start_daemon(&self) -> Result<(), RestoreError> {
        if self.qemu.transport == Transport::VhostVsock {
            return Ok(());
        }
        let cid = self.identity.cid.to_string();
        let program = self.qemu.config.vsock_daemon.display().to_string();
        let argv = [&program, "--guest-cid", &cid, "--socket", "vhost", "--uds-path", "vsock"];
        let argv = argv.map(str::to_owned).to_vec();
        let spawned = self.qemu.guard.spawn(&self.name, argv, DAEMON_LOG).await;
        spawned.map(|_| ()).map_err(|error| refused(&error, &self.identity))
    }
}
