//! Jobs that wait here because their tenant may not begin another one yet.
//!
//! Of a tenant's jobs one at a time asks the ledger, so that asking costs the same however many slots there are. It
//! asks again when one of the tenant's jobs ends here, and now and then, since others end elsewhere.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::{Notify, OwnedMutexGuard};

/// See the module. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct WaitingRooms(Arc<Mutex<HashMap<String, Weak<Room>>>>);

/// Where the jobs of one tenant wait.
#[derive(Debug, Default)]
pub(crate) struct Room {
    turn: Arc<tokio::sync::Mutex<()>>,
    ended: Notify,
}

impl WaitingRooms {
    fn rooms(&self) -> MutexGuard<'_, HashMap<String, Weak<Room>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tenant's room; it is there while somebody waits in it.
    pub(crate) fn enter(&self, tenant: &str) -> Arc<Room> {
        let mut rooms = self.rooms();
        if let Some(room) = rooms.get(tenant).and_then(Weak::upgrade) {
            return room;
        }
        rooms.retain(|_, room| room.strong_count() > 0);
        let room = Arc::new(Room::default());
        rooms.insert(tenant.to_owned(), Arc::downgrade(&room));
        room
    }

    /// One of the tenant's jobs no longer runs.
    pub(crate) fn ended(&self, tenant: &str) {
        let room = self.rooms().get(tenant).and_then(Weak::upgrade);
        if let Some(room) = room {
            room.ended.notify_one();
        }
    }
}

impl Room {
    /// The right to ask, in the order of arrival. Cancel safe, but its place in the order is lost.
    pub(crate) async fn turn(&self) -> OwnedMutexGuard<()> {
        self.turn.clone().lock_owned().await
    }

    /// Resolves when one of the tenant's jobs has ended here since this was last asked. Cancel safe.
    pub(crate) async fn ended(&self) {
        self.ended.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_asks_and_an_end_is_not_missed() {
        let rooms = WaitingRooms::default();
        let (one, two) = (rooms.enter("t"), rooms.enter("t"));
        let turn = one.turn().await;
        assert!(futures_util::FutureExt::now_or_never(two.turn()).is_none());
        rooms.ended("t");
        rooms.ended("nobody's");
        one.ended().await;
        drop(turn);
        two.turn().await;
        drop((one, two));
        assert_eq!(rooms.rooms().values().filter(|room| room.strong_count() > 0).count(), 0);
        rooms.enter("u");
        assert_eq!(rooms.rooms().len(), 1, "an empty room is forgotten");
    }
}
