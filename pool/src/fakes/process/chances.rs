//! What goes wrong by chance, from a seed.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// How often what goes wrong. Rates are from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chances {
    /// Decides all of it, in the order of the restores.
    pub seed: u64,
    /// Of all restores: the part that fails.
    pub restore_fails: f64,
    /// Of all VMs: the part that dies by itself.
    pub dies: f64,
    /// How long those live at most after their restore.
    pub dies_within: Duration,
}

/// What becomes of one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing happens to it.
    Lives,
    /// Its restore fails.
    Fails,
    /// It is killed some time after its restore.
    Dies {
        /// When.
        after: Duration,
    },
}

/// Chances and where they stand.
pub(super) struct Dice {
    chances: Chances,
    rng: SmallRng,
}

impl Dice {
    pub(super) fn new(chances: Chances) -> Self {
        Self { rng: SmallRng::seed_from_u64(chances.seed), chances }
    }

    /// The fate of the next VM. Draws as many numbers whatever it is.
    pub(super) fn throw(&mut self) -> Fate {
        let [fails, dies, when]: [f64; 3] = self.rng.random();
        if fails < self.chances.restore_fails {
            Fate::Fails
        } else if dies < self.chances.dies {
            Fate::Dies { after: self.chances.dies_within.mul_f64(when) }
        } else {
            Fate::Lives
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_series_of_fates() {
        let chances = |seed, rate| Chances {
            seed,
            restore_fails: rate,
            dies: rate,
            dies_within: Duration::from_secs(1),
        };
        let fates = |chances| {
            let mut dice = Dice::new(chances);
            (0..100).map(|_| dice.throw()).collect::<Vec<_>>()
        };
        assert_eq!(fates(chances(1, 0.3)), fates(chances(1, 0.3)));
        assert_ne!(fates(chances(1, 0.3)), fates(chances(2, 0.3)));
        assert!(fates(chances(1, 0.0)).iter().all(|fate| *fate == Fate::Lives));
        assert!(fates(chances(1, 1.0)).iter().all(|fate| *fate == Fate::Fails));
    }
}
