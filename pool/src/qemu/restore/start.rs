//! The parts of a restore that go on at once: copying memory and disk, starting QEMU and the vsock daemon.

use std::{fs::File, io, path::Path};

use tokio::{net::UnixListener, time::timeout};

use super::{CHANNEL, DAEMON_LOG, Making, QEMU_LOG, STEP_LIMIT, host, refused, vmm};
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
        let size = self.parts.snapshot.manifest.machine.scratch_mib << 20;
        let made = File::options().read(true).write(true).create_new(true).open(&self.parts.scratch);
        made.and_then(|file| file.set_len(size).map(|()| file)).map_err(host("make the scratch disk"))
    }

    pub(super) async fn clone_files(&self, scratch: File) -> Result<(), RestoreError> {
        let mut pairs = vec![(self.parts.snapshot.scratch(), scratch)];
        if self.memory_is_copied() {
            pairs.push((
                self.parts.snapshot.memory(),
                self.parts.memory.file.try_clone().map_err(host("share memory"))?,
            ));
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
        let machine = &self.parts.snapshot.manifest.machine;
        let copied = self.memory_is_copied();
        let template = self.parts.snapshot.memory();
        let spec = MachineSpec {
            accelerator: self.parts.snapshot.manifest.accelerator,
            vcpus: machine.vcpus,
            memory_mib: machine.vm_memory_mib,
            memory: if copied { &self.parts.memory.path } else { &template },
            memory_shared: copied,
            root: &self.parts.snapshot.root(),
            scratch: &self.parts.scratch,
            qmp: Path::new("qmp"),
            rates: self.qemu.config.rates,
            tap: self.parts.network.as_deref().map(Network::tap),
        };
        // We listen and QEMU connects: nobody has to look whether a socket is there yet.
        let listener =
            UnixListener::bind(self.parts.directory.join("qmp")).map_err(host("listen for QMP"))?;
        let mut argv = self.parts.network.as_deref().map(Network::entered).unwrap_or_default();
        argv.push(self.qemu.config.qemu.display().to_string());
        let channel = self.parts.reach.has_serial().then_some(Path::new(CHANNEL));
        argv.extend(arguments(&spec, &Start::Incoming { channel }));
        let spawned = self.qemu.guard.spawn(&self.parts.name, argv, QEMU_LOG).await;
        let pid = spawned.map_err(|error| refused(&error, &self.parts.identity))?;
        let accepted = timeout(STEP_LIMIT, listener.accept()).await;
        let accepted = accepted.map_err(|_| RestoreError::Timeout { step: "start", limit: STEP_LIMIT })?;
        let (socket, _) = accepted.map_err(host("accept QMP"))?;
        Ok((Qmp::open(socket, STEP_LIMIT).await.map_err(vmm)?, pid))
    }

    pub(super) async fn start_daemon(&self) -> Result<(), RestoreError> {
        if !self.needs_daemon() {
            return Ok(());
        }
        let cid = self.parts.identity.cid.to_string();
        let program = self.qemu.config.vsock_daemon.display().to_string();
        let argv = [&program, "--guest-cid", &cid, "--socket", "vhost", "--uds-path", "vsock"];
        let argv = argv.map(str::to_owned).to_vec();
        let spawned = self.qemu.guard.spawn(&self.parts.name, argv, DAEMON_LOG).await;
        spawned.map(|_| ()).map_err(|error| refused(&error, &self.parts.identity))
    }
}
