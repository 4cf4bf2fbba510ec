//! The table `[vms]`.

use hearth_pool::rates::Rates;
use toml::Value;

use super::read::{Mistakes, Section};

/// Largest rates: of a second, a tebibyte and ten million operations.
const MIB_MAX: u64 = 1 << 20;
const OPERATIONS_MAX: u64 = 10_000_000;

/// How fast the devices of each VM may be.
pub(super) fn rates(mut section: Section<'_>, mistakes: &mut Mistakes) -> Rates {
    let mut limit = |name, most| section.field(name, mistakes, |value| whole(value, most));
    let rates = Rates {
        disk_bytes: limit("disk_mib_per_s", MIB_MAX).map(|mib| mib << 20),
        disk_operations: limit("disk_operations_per_s", OPERATIONS_MAX),
        network_bytes: limit("network_mib_per_s", MIB_MAX).map(|mib| mib << 20),
    };
    section.end(mistakes);
    rates
}

fn whole(value: &Value, most: u64) -> Result<u64, String> {
    let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
    number
        .filter(|number| (1..=most).contains(number))
        .ok_or_else(|| format!("{value} given; allowed is a whole number from 1 to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Rates, Vec<String>) {
        let (mut table, mut mistakes) = (text.parse().unwrap(), Mistakes::default());
        let section = Section::take(&mut table, "vms", &|_| None, &mut mistakes);
        (rates(section, &mut mistakes), mistakes.0)
    }

    #[test]
    fn rates_are_per_second_and_absent_ones_are_no_limit() {
        assert_eq!(read("").0, Rates::default());
        let (rates, mistakes) =
            read("[vms]\ndisk_mib_per_s = 3\ndisk_operations_per_s = 7\nnetwork_mib_per_s = 2\n");
        assert_eq!(mistakes, Vec::<String>::new());
        let bytes = |mib: u64| Some(mib << 20);
        assert_eq!(rates, Rates { disk_bytes: bytes(3), disk_operations: Some(7), network_bytes: bytes(2) });
    }

    #[test]
    fn what_is_wrong_is_said_by_its_field() {
        let (_, mistakes) = read("[vms]\ndisk_mib_per_s = 0\ndisk_operations_per_s = \"x\"\nnet = 1\n");
        assert_eq!(mistakes.len(), 3, "{mistakes:?}");
        assert!(mistakes[0].starts_with("vms.disk_mib_per_s: 0 given; allowed is a whole number from 1 to"));
        assert!(mistakes[2].starts_with("vms.net: is not known; known are disk_mib_per_s,"), "{mistakes:?}");
    }
}
