use super::*;

const GOOD: &str = r#"
name = "x"
packages = ["libc6-dev"]
vcpus = 1
vm_memory_mib = 256
scratch_mib = 512
[entry]
file = "main.x"
argv = ["x", "main.x"]
[[warm_up]]
argv = ["true"]
"#;

fn refused(from: &str, to: &str) -> String {
    let text = GOOD.replace(from, to);
    assert_ne!(text, GOOD, "the case changes something");
    Runtime::parse("dir/x.toml", &text).unwrap_err().to_string()
}

#[test]
fn the_built_in_runtimes_are_valid_and_offer_what_the_design_says() {
    let runtimes = Runtimes::load(None).unwrap();
    let memory: Vec<_> = runtimes.iter().map(|r| (r.name.as_str(), r.vm_memory_mib)).collect();
    assert_eq!(memory, [("bash", 256), ("gcc", 512), ("node", 512), ("python", 384)]);
    assert!(runtimes.iter().all(|r| !r.warm_up.is_empty()));
    let gcc = runtimes.get("gcc").unwrap();
    assert!(gcc.entry.compile.is_some() && gcc.languages["cpp"].compile.is_some());
}

#[test]
fn every_error_names_the_file_and_the_field() {
    let cases = [
        ("vcpus = 1", "vcpus = 0", "dir/x.toml: vcpus: 0 is not within 1 to 64"),
        (
            "vcpus = 1",
            "transport = \"usb\"\nvcpus = 1",
            "dir/x.toml:4: transport: unknown variant `usb`, expected one of `vsock`, `serial`, `vsock_or_serial`",
        ),
        ("256", "64", "dir/x.toml: vm_memory_mib: 64 is not within 128 to 65536"),
        ("scratch_mib = 512", "scratch_mib = 1", "dir/x.toml: scratch_mib: 1 is not within 16 to 65536"),
        ("libc6-dev", "--purge", "dir/x.toml: packages[0]: \"--purge\" is no name of a Debian package"),
        (
            "\"main.x\"\n",
            "\"a/b\"\n",
            "dir/x.toml: entry.file: \"a/b\" is not the name of one file, without directories",
        ),
        ("[\"x\", \"main.x\"]", "[]", "dir/x.toml: entry.argv: names no command"),
        ("[\"true\"]", "[\"\"]", "dir/x.toml: warm_up[0].argv: names no command"),
        ("[\"true\"]", "[\"a\\u0000\"]", "dir/x.toml: warm_up[0].argv: contains a NUL byte"),
        ("\"x\"\n", "\"y\"\n", "dir/x.toml: name: \"y\" differs from the file's name, \"x\""),
        ("\"x\"\n", "\"a/b\"\n", "dir/x.toml: name: \"a/b\" is not 1 to 64 of A-Z, a-z, 0-9, _ and -"),
        (
            "[[warm_up]]",
            "[languages.y]\nfile = \"a\"\nargv = []\n[[warm_up]]",
            "dir/x.toml: languages.y.argv: names no command",
        ),
        (
            "[[warm_up]]",
            "[languages.y]\nfile = \"a\"\nargv = [\"a\"]\ncompile.argv = []\n[[warm_up]]",
            "dir/x.toml: languages.y.compile.argv: names no command",
        ),
        (
            "[[warm_up]]",
            "[languages.\"a b\"]\nfile = \"a\"\nargv = [\"a\"]\n[[warm_up]]",
            "dir/x.toml: languages.a b: \"a b\" is not 1 to 64 of A-Z, a-z, 0-9, _ and -",
        ),
        (
            "[[warm_up]]",
            "language = \"y\"\n[languages.y]\nfile = \"a\"\nargv = [\"a\"]\n[[warm_up]]",
            "dir/x.toml: languages.y: \"y\" has two names, or is what [entry] is already",
        ),
    ];
    for (from, to, error) in cases {
        assert_eq!(refused(from, to), error);
    }
}

#[test]
fn syntax_errors_name_line_and_field() {
    assert_eq!(
        refused("vcpus = 1", "vcpus = \"1\""),
        "dir/x.toml:4: vcpus: invalid type: string \"1\", expected u32"
    );
    let unknown = refused("argv = [\"true\"]", "argv = [\"true\"]\ncolour = 1");
    assert!(unknown.starts_with("dir/x.toml:12: warm_up[0].colour: unknown field `colour`"), "{unknown}");
    let missing = refused("vcpus = 1\n", "");
    assert!(missing.contains("missing field `vcpus`"), "{missing}");
    let broken = refused("vcpus = 1", "vcpus =");
    assert!(broken.starts_with("dir/x.toml:4: .: "), "{broken}");
}

#[test]
fn a_directory_replaces_and_adds() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("x.toml"), GOOD).unwrap();
    fs::write(dir.path().join("bash.toml"), GOOD.replace("\"x\"\n", "\"bash\"\n")).unwrap();
    fs::write(dir.path().join("notes.txt"), "not a runtime").unwrap();
    let runtimes = Runtimes::load(Some(dir.path())).unwrap();
    assert_eq!(runtimes.iter().count(), 5);
    assert_eq!(runtimes.get("bash").unwrap().packages, ["libc6-dev"]);
    assert!(runtimes.get("python").is_some());

    let absent = Runtimes::load(Some(&dir.path().join("absent"))).unwrap_err();
    assert!(absent.to_string().ends_with("/absent"), "{absent}");
}
