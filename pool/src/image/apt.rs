//! Debian packages from the host's own mirrors, without touching the host's apt state.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{ImageError, at, command::Tool};

/// The Debian release that guests run.
pub(super) const SUITE: &str = "bookworm";
/// Its pockets; backports are not among them, so that a guest gets what stable has.
const POCKETS: [&str; 3] = ["", "-updates", "-security"];
/// The distribution's own keys, which every Debian host has.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The `sources.list` of an image: the host's mirrors of [`SUITE`], restricted to its pockets and `main`.
pub(super) async fn sources() -> Result<String, ImageError> {
    let format = "$(REPO_URI) $(RELEASE) $(COMPONENT)";
    let targets = Tool::new("apt-get", "apt")
        // Without release info: before the host's first `apt-get update` there is none, and the targets are hidden.
        .args(["indextargets", "--no-release-info", "--format", format, "Created-By: Packages"])
        .output()
        .await?;
    let signed_by = Path::new(KEYRING).exists().then_some(KEYRING);
    let list = select_sources(&targets, signed_by);
    if list.is_empty() { Err(ImageError::NoSources { suite: SUITE }) } else { Ok(list) }
}

/// One line for each `URI SUITE COMPONENT` of `targets` that an image may install from. Without `signed_by`, apt's
/// default keys count.
fn select_sources(targets: &str, signed_by: Option<&str>) -> String {
    let option = signed_by.map(|key| format!(" [signed-by={key}]")).unwrap_or_default();
    let ours = |release: &str| release.strip_prefix(SUITE).is_some_and(|pocket| POCKETS.contains(&pocket));
    let lines: BTreeSet<String> = targets
        .lines()
        .filter_map(|line| match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            [uri, release, "main"] if ours(release) && !uri.starts_with("cdrom:") => {
                Some(format!("deb{option} {uri} {release} main\n"))
            }
            _ => None,
        })
        .collect();
    lines.into_iter().collect()
}

/// How the host's apt reaches its mirrors (proxies, timeouts, validity), as lines of an apt.conf.
pub(super) async fn acquire_options() -> Result<String, ImageError> {
    let dump = Tool::new("apt-config", "apt").args(["dump", "Acquire"]).output().await?;
    Ok(select_options(&dump))
}

fn select_options(dump: &str) -> String {
    let wanted = |line: &&str| {
        let key = line.split([' ', ':']).filter(|part| !part.is_empty()).nth(1).unwrap_or_default();
        ["http", "https", "Retries", "ForceIPv4", "ForceIPv6", "Check-Valid-Until"].contains(&key)
    };
    dump.lines().filter(wanted).map(|line| format!("{line}\n")).collect()
}

/// An apt whose lists, cache and sources are in a directory of its own, and which thinks that nothing is installed.
pub(super) struct PrivateApt {
    dir: PathBuf,
}

impl PrivateApt {
    /// Sets it up in `dir`, which must exist, and downloads the package lists.
    pub async fn update(dir: PathBuf, sources: &str) -> Result<Self, ImageError> {
        for part in ["lists/partial", "cache/archives/partial", "none"] {
            fs::create_dir_all(dir.join(part)).map_err(at(&dir))?;
        }
        for (name, content) in [("sources.list", sources), ("status", "")] {
            fs::write(dir.join(name), content).map_err(at(&dir))?;
        }
        let apt = Self { dir };
        // Otherwise a mirror that cannot be reached is a warning, and the lists are just empty.
        apt.run("apt-get", &["-qq", "-oAPT::Update::Error-Mode=any", "update"]).await?;
        Ok(apt)
    }

    /// One field of the newest version of a package.
    pub async fn field(&self, package: &str, field: &str) -> Result<Option<String>, ImageError> {
        let record = self.run("apt-cache", &["show", "--no-all-versions", package]).await?;
        Ok(control_field(&record, field).map(str::to_owned))
    }

    /// Downloads one version of a package, its hash checked against the signed lists, and returns the file.
    pub async fn download(&self, package: &str, version: &str) -> Result<PathBuf, ImageError> {
        self.run("apt-get", &["-qq", "download", &format!("{package}={version}")]).await?;
        let entries = fs::read_dir(&self.dir).map_err(at(&self.dir))?;
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|ext| ext == "deb"))
            .ok_or_else(|| ImageError::Odd(format!("apt-get download {package} left no file")))
    }

    async fn run(&self, name: &'static str, args: &[&str]) -> Result<String, ImageError> {
        let own = |option: &str, path: &str| format!("-o{option}={}", self.dir.join(path).display());
        let tool = Tool::new(name, "apt").dir(&self.dir).args([
            own("Dir::State::lists", "lists"),
            own("Dir::State::status", "status"),
            own("Dir::Cache", "cache"),
            own("Dir::Etc::sourcelist", "sources.list"),
            own("Dir::Etc::sourceparts", "none"),
            own("Dir::Etc::preferences", "none"),
            own("Dir::Etc::preferencesparts", "none"),
            "-oAcquire::Languages=none".into(),
            // The directory is readable by its owner only.
            "-oAPT::Sandbox::User=".into(),
        ]);
        Ok(tool.args(args).output().await?)
    }
}

/// A field of the first paragraph of a control file; folded fields are cut at their first line.
fn control_field<'a>(record: &'a str, field: &str) -> Option<&'a str> {
    let paragraph = record.split("\n\n").next()?;
    paragraph.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_the_pockets_of_the_suite_once_each() {
        let targets = "\
http://m.example/debian/ bookworm main
http://m.example/debian/ bookworm main
http://m.example/debian/ bookworm contrib
http://m.example/debian/ bookworm-backports main
http://m.example/sec/ bookworm-security main
cdrom://x/ bookworm main
https://other.example/ nodistro main
";
        assert_eq!(
            select_sources(targets, Some("/k.gpg")),
            "deb [signed-by=/k.gpg] http://m.example/debian/ bookworm main\n\
             deb [signed-by=/k.gpg] http://m.example/sec/ bookworm-security main\n"
        );
        assert_eq!(select_sources("file:/m/ bookworm main", None), "deb file:/m/ bookworm main\n");
        assert_eq!(select_sources("http://m.example/ trixie main\n", None), "");
    }

    #[test]
    fn only_options_about_reaching_the_mirror_are_taken_over() {
        let dump = "\
Acquire \"\";
Acquire::Languages \"none\";
Acquire::http \"\";
Acquire::http::Proxy \"http://proxy.example:3128/\";
Acquire::Changelogs::URI::Origin::Debian \"x\";
Acquire::Check-Valid-Until \"false\";
";
        assert_eq!(
            select_options(dump),
            "Acquire::http \"\";\nAcquire::http::Proxy \"http://proxy.example:3128/\";\nAcquire::Check-Valid-Until \"false\";\n"
        );
    }

    #[test]
    fn a_field_is_read_from_the_newest_record() {
        let record = "Package: a\nVersion: 2\nDepends: b-2 (= 2)\n\nPackage: a\nVersion: 1\n";
        assert_eq!(control_field(record, "Version"), Some("2"));
        assert_eq!(control_field(record, "Depends"), Some("b-2 (= 2)"));
        assert_eq!(control_field(record, "Dep"), None);
    }
}
