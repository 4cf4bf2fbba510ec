//! A terminal that a command runs in, and what a person would see there.

use std::{
    fs::File,
    io::{Read, Write},
    num::NonZero,
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};

use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);
const ROWS: u16 = 40;
const COLUMNS: u16 = 150;

fn nonzero(number: u16) -> NonZero<u16> {
    NonZero::new(number).unwrap()
}

pub struct Terminal {
    keyboard: File,
    /// Kept open, so that the terminal outlives the command.
    screen_side: OwnedFd,
    screen: Arc<Mutex<vt100::Parser>>,
    child: Child,
    _reader: JoinHandle<()>,
    before: Termios,
}

impl Terminal {
    pub fn run(mut command: Command) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        tcsetwinsize(&theirs, Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let before = tcgetattr(&theirs).unwrap();
        let side = || theirs.try_clone().unwrap();
        let child = command.stdin(side()).stdout(side()).stderr(side()).env("TERM", "xterm").spawn().unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(nonzero(ROWS), nonzero(COLUMNS), 0)));
        let mut keyboard = File::from(ours);
        let mut output = keyboard.try_clone().unwrap();
        let reader = std::thread::spawn({
            let screen = screen.clone();
            move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = output.read(&mut bytes) {
                    screen.lock().unwrap().process(&bytes[..count]);
                }
            }
        });
        keyboard.flush().unwrap();
        Self { keyboard, screen_side: theirs, screen, child, _reader: reader, before }
    }

    /// What is on it.
    pub fn contents(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Whether a program has taken it over.
    pub fn is_taken(&self) -> bool {
        self.screen.lock().unwrap().screen().alternate_screen()
    }

    /// Waits until this is to be seen.
    pub async fn see(&mut self, what: &str) {
        self.wait(what, |terminal| {
            assert!(terminal.child.try_wait().unwrap().is_none(), "it has ended:\n{}", terminal.contents());
            terminal.contents().contains(what)
        })
        .await;
    }

    async fn wait(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < until, "waiting for {what:?}:\n{}", self.contents());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end. The terminal must be as it was.
    pub async fn end(mut self) -> (ExitStatus, String) {
        self.wait("its end", |terminal| terminal.child.try_wait().unwrap().is_some()).await;
        let status = self.child.wait().unwrap();
        self.wait("the screen to be given back", |terminal| !terminal.is_taken()).await;
        let after = tcgetattr(&self.screen_side).unwrap();
        assert_eq!(after.local_modes, self.before.local_modes, "it echoes and reads by lines, as before");
        assert_eq!(after.input_modes, self.before.input_modes);
        assert!(!self.screen.lock().unwrap().screen().hide_cursor(), "the cursor is back");
        (status, self.contents())
    }
}
