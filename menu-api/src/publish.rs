//! The write path: a row, its version and what nodes must be told in one transaction; then every
//! node forgets what is old; then the operator's call answers.
//!
//! **Promise.** A write that was answered is stored, and while Redis can be reached nobody who asks
//! afterwards is shown anything older. With Redis away the write is answered too; what must be told
//! stays in `cache_invalidations` until it is.

use std::{sync::Arc, time::Duration};

use contracts::{
    events::RatingSum,
    ids::{CategoryId, ItemId, RestaurantId},
};
use platform::{
    auth::{Caller, Role},
    permits::Permits,
    postgres,
};
use sqlx::{PgConnection, PgPool};
use tokio_util::task::TaskTracker;

use crate::{
    coherence::{Announcer, Order, Outcome, Sweeper},
    document::Parts,
    hours::Hours,
    memory::Change,
    menu::{NewCategory, NewItem, NewMenu},
    restaurant::{Profile, Status},
    store::{
        menus,
        write::{self, Availability, WriteError},
    },
};

/// Writes to one restaurant at a time: they wait for each other anyway.
const WRITES_EACH: usize = 2;
/// A write waits so long for its turn, without a connection.
const PERMIT_MAX: Duration = Duration::from_secs(5);
/// A write that takes longer is lost, and what it has held is free again.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// A write that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published<T> {
    /// The version that it made.
    pub version: i64,
    /// What it answers.
    pub answer: T,
    /// Whether every node knows; otherwise Redis was away and they are told later.
    pub everywhere: bool,
}

/// A handle that writes; clones share everything.
#[derive(Clone)]
pub struct Publisher {
    db: PgPool,
    /// By restaurant; new ones share a place.
    permits: Arc<Permits<Option<RestaurantId>>>,
    announcer: Announcer,
    sweeper: Arc<Sweeper>,
    tasks: TaskTracker,
}

/// A change of one restaurant.
#[derive(Debug, Clone)]
pub enum Write {
    /// Its description.
    Profile(Box<Profile>, Hours),
    /// What the operator says of the kitchen.
    Status(Status, Option<i32>),
    /// What customers think of it.
    Rating(RatingSum),
    /// Whether items can be had.
    Availability(Vec<Availability>),
    /// All of the menu.
    Menu(NewMenu),
    /// A new category.
    AddCategory(NewCategory),
    /// A category, which keeps its place and its items.
    Category(CategoryId, NewCategory),
    /// A category with its items goes.
    DropCategory(CategoryId),
    /// A new item of a category.
    AddItem(CategoryId, Box<NewItem>),
    /// An item, which may move to another category.
    Item(ItemId, CategoryId, Box<NewItem>),
    /// An item goes.
    DropItem(ItemId),
}

/// What a write answers, where that is more than its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Nothing else.
    Done,
    /// The capacity as it is now.
    Capacity(Option<i32>),
    /// The category's id.
    Category(CategoryId),
    /// The item's id.
    Item(ItemId),
}

impl Write {
    /// The parts of the restaurant that it changes.
    fn parts(&self) -> Parts {
        match self {
            // The currency is shown with every price, the hours with the status.
            Self::Profile(..) => Parts::ALL,
            Self::Status(..) => Parts::STATUS.and(Parts::LISTS),
            Self::Rating(_) => Parts::PROFILE.and(Parts::LISTS),
            Self::Availability(_) => Parts::MENU,
            // Lists are searched for names of items.
            _ => Parts::MENU.and(Parts::LISTS),
        }
    }

    async fn apply(
        self,
        db: &mut PgConnection,
        restaurant: RestaurantId,
        version: i64,
    ) -> Result<Answer, WriteError> {
        match self {
            Self::Profile(profile, hours) => {
                write::replace_profile(db, restaurant, &profile, &hours).await?;
            }
            Self::Status(status, capacity) => {
                let capacity = write::set_status(db, restaurant, status, capacity).await?;
                return Ok(Answer::Capacity(capacity));
            }
            Self::Rating(rating) => write::set_rating(db, restaurant, rating).await?,
            Self::Availability(items) => {
                write::set_availability(db, restaurant, version, &items).await?;
            }
            Self::Menu(menu) => write::replace_menu(db, restaurant, version, &menu).await?,
            Self::AddCategory(category) => {
                let position = write::end_of_categories(db, restaurant).await?;
                let id = write::put_category(db, restaurant, version, &category, position).await?;
                for (n, item) in (0..).zip(&category.items) {
                    write::put_item(db, restaurant, version, id, item, n).await?;
                }
                write::note_words(db, restaurant).await?;
                return Ok(Answer::Category(id));
            }
            Self::Category(id, category) => {
                let position = write::position(db, restaurant, Some(id), None).await?;
                let category = NewCategory { category_id: Some(id), ..category };
                write::put_category(db, restaurant, version, &category, position).await?;
                write::note_words(db, restaurant).await?;
                return Ok(Answer::Category(id));
            }
            Self::DropCategory(id) => {
                write::delete_category(db, restaurant, id).await?;
                write::note_words(db, restaurant).await?;
            }
            Self::AddItem(category, item) => {
                let position = write::end_of_items(db, restaurant, category).await?;
                let item = NewItem { item_id: None, ..*item };
                let id =
                    write::put_item(db, restaurant, version, category, &item, position).await?;
                write::note_words(db, restaurant).await?;
                return Ok(Answer::Item(id));
            }
            Self::Item(id, category, item) => {
                let position = write::position(db, restaurant, None, Some(id)).await?;
                let item = NewItem { item_id: Some(id), ..*item };
                write::put_item(db, restaurant, version, category, &item, position).await?;
                write::note_words(db, restaurant).await?;
                return Ok(Answer::Item(id));
            }
            Self::DropItem(id) => {
                write::delete_item(db, restaurant, id).await?;
                write::note_words(db, restaurant).await?;
            }
        }
        Ok(Answer::Done)
    }
}

impl Publisher {
    /// A publisher whose writes run on `tasks`: one that has begun is finished and announced also
    /// when its caller has gone away.
    /// At most `writes` are under way at a time, two of them to one restaurant.
    pub fn new(
        db: PgPool,
        writes: usize,
        announcer: Announcer,
        sweeper: Arc<Sweeper>,
        tasks: TaskTracker,
    ) -> Self {
        let permits = Permits::new("writes", writes, WRITES_EACH, PERMIT_MAX);
        Self { db, permits: Arc::new(permits), announcer, sweeper, tasks }
    }

    /// Changes a restaurant that the caller runs.
    pub async fn publish(
        &self,
        caller: Arc<Caller>,
        restaurant: RestaurantId,
        write: Write,
    ) -> Result<Published<Answer>, WriteError> {
        let this = self.clone();
        // Before anything begins: a caller that goes away while it waits has changed nothing.
        let permit = self.permits.enter(Some(restaurant)).await?;
        self.finished(async move {
            let parts = write.parts();
            let writing = async {
                let mut tx = this.db.begin().await?;
                let version = write::touch(&mut tx, &caller, restaurant, parts).await?;
                let answer = write.apply(&mut tx, restaurant, version).await?;
                if parts.meets(Parts::MENU) {
                    menus::write_down(&mut tx, restaurant).await?;
                }
                let id = write::note(&mut tx, restaurant, version, parts).await?;
                tx.commit().await?;
                Ok::<_, WriteError>((version, answer, id))
            };
            let (version, answer, id) = postgres::within(WRITE_MAX, writing).await?;
            drop(permit);
            let everywhere = this.announce(Change { restaurant, version, parts }, id).await;
            Ok(Published { version, answer, everywhere })
        })
        .await
    }

    /// Adds a restaurant.
    pub async fn create(
        &self,
        caller: Arc<Caller>,
        profile: Profile,
        hours: Hours,
    ) -> Result<Published<RestaurantId>, WriteError> {
        let this = self.clone();
        let permit = self.permits.enter(None).await?;
        self.finished(async move {
            let operator = (caller.role == Role::Operator).then_some(caller.subject);
            let (version, parts) = (1, Parts::ALL);
            let writing = async {
                let mut tx = this.db.begin().await?;
                let restaurant = write::create(&mut tx, &profile, &hours, operator).await?;
                // Somebody may have asked for it before it was there.
                let id = write::note(&mut tx, restaurant, version, parts).await?;
                tx.commit().await?;
                Ok::<_, WriteError>((restaurant, id))
            };
            let (restaurant, id) = postgres::within(WRITE_MAX, writing).await?;
            drop(permit);
            let everywhere = this.announce(Change { restaurant, version, parts }, id).await;
            Ok(Published { version, answer: restaurant, everywhere })
        })
        .await
    }

    async fn finished<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, WriteError>> + Send + 'static,
    ) -> Result<T, WriteError> {
        // A task that panics or is cut off at the end of the process has an unknown outcome.
        let lost = |_| WriteError::Database(sqlx::Error::WorkerCrashed);
        self.tasks.spawn(work).await.map_err(lost)?
    }

    async fn announce(&self, change: Change, invalidation_id: i64) -> bool {
        let everywhere =
            matches!(self.announcer.announce(Order::Changed(change)).await, Outcome::Everywhere(_));
        if everywhere {
            self.sweeper.announced(invalidation_id);
        }
        everywhere
    }
}
