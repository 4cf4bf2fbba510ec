//! Every request that the client can send, against Firecracker's own description of its API.
//!
//! The descriptions (OpenAPI 2) are upstream's and not part of this repository: they are looked for in
//! `shared/firecracker-api` beside any directory above, as `swagger-v<version>.yaml`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use hearth_pool::firecracker::api::{
    Action, BootSource, DeviceId, Drive, Entropy, Features, Logger, MachineConfig, MemoryBackend, Metrics,
    NetworkInterface, NetworkOverride, PartialDrive, PartialNetworkInterface, RateLimiter, Request, Serial,
    SnapshotCreate, SnapshotLoad, SnapshotType, TokenBucket, VmState, Vsock, VsockOverride,
};
use serde_json::{Value, json};

const VERSIONS: [&str; 2] = ["1.15.1", "1.16.1"];

fn descriptions() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().map(|above| above.join("shared/firecracker-api")).find(|path| path.is_dir())
}

/// `None`, said aloud, where upstream's files are not to be found.
fn description(version: &str) -> Option<Value> {
    let Some(directory) = descriptions() else {
        eprintln!("SKIPPED: no shared/firecracker-api above this directory");
        return None;
    };
    let text = fs::read_to_string(directory.join(format!("swagger-v{version}.yaml"))).unwrap();
    let mut api: Value = serde_yaml_ng::from_str(&text).unwrap();
    assert_eq!(api["info"]["version"], version);
    close_objects(&mut api["definitions"]);
    Some(api)
}

/// Firecracker refuses unknown fields, which its description does not say: every object with known fields is closed.
fn close_objects(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("properties").is_some_and(Value::is_object)
                && !map.contains_key("additionalProperties")
            {
                map.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            map.values_mut().for_each(close_objects);
        }
        Value::Array(list) => list.iter_mut().for_each(close_objects),
        _ => {}
    }
}

/// Why the description does not allow this request, or nothing.
fn objections(api: &Value, request: &Request) -> Vec<String> {
    let (method, path) = request.line();
    let Some(operation) = operation(api, method, &path) else {
        return vec![format!("no {method} {path}")];
    };
    let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    let wanted = parameters.iter().find(|parameter| parameter["in"] == "body");
    match (wanted, request.body().unwrap()) {
        (None, None) => vec![],
        (None, Some(_)) => vec![format!("{method} {path} takes no body")],
        (Some(_), None) => vec![format!("{method} {path} needs a body")],
        (Some(parameter), Some(body)) => {
            let mut schema = parameter["schema"].clone();
            schema["$schema"] = json!("http://json-schema.org/draft-04/schema#");
            let root = json!({ "$schema": schema["$schema"], "allOf": [parameter["schema"]],
                               "definitions": api["definitions"] });
            let validator = jsonschema::validator_for(&root).unwrap();
            validator
                .iter_errors(&body)
                .map(|error| format!("{method} {path}: {} at {}", error, error.instance_path()))
                .collect()
        }
    }
}

fn operation<'a>(api: &'a Value, method: &str, path: &str) -> Option<&'a Value> {
    let fits = |template: &str| {
        let (ours, theirs): (Vec<_>, Vec<_>) = (path.split('/').collect(), template.split('/').collect());
        ours.len() == theirs.len()
            && ours.iter().zip(theirs).all(|(our, their)| *our == their || their.starts_with('{'))
    };
    let (_, item) = api["paths"].as_object()?.iter().find(|(template, _)| fits(template))?;
    item.get(method.to_ascii_lowercase())
}

fn id(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

fn rates() -> Option<RateLimiter> {
    let bucket = TokenBucket { size: 1 << 20, one_time_burst: Some(1 << 24), refill_time: 100 };
    Some(RateLimiter { bandwidth: Some(bucket), ops: Some(TokenBucket { one_time_burst: None, ..bucket }) })
}

/// Each kind of request with everything it can carry, where that differs also with as little as it can.
fn requests() -> Vec<Request> {
    let path = || "/x/y.z".to_owned();
    vec![
        Request::GetVersion,
        Request::GetVmConfig,
        Request::PutMachineConfig(MachineConfig { vcpu_count: 1, mem_size_mib: 256, smt: false }),
        Request::PutMachineConfig(MachineConfig { vcpu_count: 32, mem_size_mib: 65_536, smt: true }),
        Request::PutBootSource(BootSource {
            kernel_image_path: path(),
            initrd_path: Some(path()),
            boot_args: "console=ttyS0".to_owned(),
        }),
        Request::PutBootSource(BootSource {
            kernel_image_path: path(),
            initrd_path: None,
            boot_args: String::new(),
        }),
        Request::PutDrive(Drive {
            drive_id: id("root"),
            path_on_host: path(),
            is_root_device: false,
            is_read_only: true,
            rate_limiter: rates(),
        }),
        Request::PutDrive(Drive {
            drive_id: id("scratch"),
            path_on_host: path(),
            is_root_device: false,
            is_read_only: false,
            rate_limiter: None,
        }),
        Request::PatchDrive(PartialDrive {
            drive_id: id("scratch"),
            path_on_host: Some(path()),
            rate_limiter: rates(),
        }),
        Request::PatchDrive(PartialDrive {
            drive_id: id("scratch"),
            path_on_host: None,
            rate_limiter: Some(RateLimiter::default()),
        }),
        Request::PutNetworkInterface(card(Some(1500))),
        Request::PutNetworkInterface(card(None)),
        Request::PatchNetworkInterface(PartialNetworkInterface {
            iface_id: id("eth0"),
            rx_rate_limiter: rates(),
            tx_rate_limiter: rates(),
        }),
        Request::PutVsock(Vsock { guest_cid: 3, uds_path: "v.sock".to_owned() }),
        Request::PutEntropy(Entropy { rate_limiter: rates() }),
        Request::PutEntropy(Entropy::default()),
        Request::PutLogger(Logger { log_path: path(), level: "Warning", show_level: true }),
        Request::PutMetrics(Metrics { metrics_path: path() }),
        Request::PutSerial(Serial {
            serial_out_path: path(),
            rate_limiter: Some(TokenBucket { size: 1, one_time_burst: None, refill_time: 1 }),
        }),
        Request::PutSerial(Serial { serial_out_path: path(), rate_limiter: None }),
        Request::PutAction(Action::InstanceStart),
        Request::PutAction(Action::FlushMetrics),
        Request::PatchVm(VmState::Paused),
        Request::PatchVm(VmState::Resumed),
        Request::CreateSnapshot(SnapshotCreate {
            snapshot_type: SnapshotType::Full,
            snapshot_path: path(),
            mem_file_path: path(),
        }),
        Request::LoadSnapshot(load(Some(VsockOverride { uds_path: "v.sock".to_owned() }))),
        Request::LoadSnapshot(load(None)),
    ]
}

fn card(mtu: Option<u16>) -> NetworkInterface {
    NetworkInterface {
        iface_id: id("eth0"),
        host_dev_name: "hth12".to_owned(),
        guest_mac: Some("06:00:00:00:00:01".to_owned()),
        rx_rate_limiter: rates(),
        tx_rate_limiter: None,
        mtu,
    }
}

fn load(vsock_override: Option<VsockOverride>) -> SnapshotLoad {
    SnapshotLoad {
        snapshot_path: "vmstate".to_owned(),
        mem_backend: MemoryBackend::File("memory".to_owned()),
        resume_vm: false,
        network_overrides: vec![NetworkOverride { iface_id: id("eth0"), host_dev_name: "hth12".to_owned() }],
        vsock_override,
    }
}

/// Its number among the kinds; a new kind does not compile until it has one here, and fails until it is sampled.
fn kind(request: &Request) -> usize {
    match request {
        Request::GetVersion => 0,
        Request::PutMachineConfig(_) => 1,
        Request::PutBootSource(_) => 2,
        Request::PutDrive(_) => 3,
        Request::PatchDrive(_) => 4,
        Request::PutNetworkInterface(_) => 5,
        Request::PatchNetworkInterface(_) => 6,
        Request::PutVsock(_) => 7,
        Request::PutEntropy(_) => 8,
        Request::PutLogger(_) => 9,
        Request::PutMetrics(_) => 10,
        Request::PutSerial(_) => 11,
        Request::PutAction(_) => 12,
        Request::PatchVm(_) => 13,
        Request::CreateSnapshot(_) => 14,
        Request::LoadSnapshot(_) => 15,
        Request::GetVmConfig => 16,
    }
}

#[test]
fn every_request_fits_firecrackers_own_description_of_its_api() {
    let kinds: BTreeSet<usize> = requests().iter().map(kind).collect();
    assert!(kinds.iter().copied().eq(0..17), "every kind is sampled: {kinds:?}");
    for version in VERSIONS {
        let Some(api) = description(version) else { return };
        let features = Features::of(version.parse().unwrap()).unwrap();
        let mut sent = 0;
        for request in requests() {
            match (request.check(&features), objections(&api, &request)) {
                (Ok(()), objections) => {
                    assert!(objections.is_empty(), "{version}: {objections:?}");
                    sent += 1;
                }
                (Err(gated), objections) => {
                    assert!(!objections.is_empty(), "{version} would take it, and yet: {gated}");
                }
            }
        }
        assert_eq!(sent, if version == "1.15.1" { requests().len() - 3 } else { requests().len() });
    }
}

#[test]
fn the_check_has_teeth() {
    let Some(api) = description("1.16.1") else { return };
    let mut vsock = Vsock { guest_cid: 3, uds_path: "v.sock".to_owned() };
    assert_eq!(objections(&api, &Request::PutVsock(vsock.clone())), Vec::<String>::new());
    vsock.guest_cid = 2;
    assert_eq!(objections(&api, &Request::PutVsock(vsock)).len(), 1, "less than the minimum");
    let wide = MachineConfig { vcpu_count: 33, mem_size_mib: 1, smt: false };
    assert_eq!(objections(&api, &Request::PutMachineConfig(wide)).len(), 1, "more than the maximum");
    let loud = Logger { log_path: String::new(), level: "Loud", show_level: true };
    assert_eq!(objections(&api, &Request::PutLogger(loud)).len(), 1, "no level");
}
