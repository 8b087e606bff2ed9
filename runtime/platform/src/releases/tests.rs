use super::*;
use crate::store::{Fault, MemStore};

fn slug(n: u8) -> SlugId {
    format!("{n:02x}").repeat(32).parse().unwrap()
}

fn vars(pairs: &[(&str, &str)]) -> ConfigVars {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn draft(n: u8, set: &[(&str, &str)]) -> Draft {
    Draft {
        slug: slug(n),
        base: vars(&[("A", "base"), ("B", "base")]),
        set: vars(set),
        description: format!("Deploy {n}"),
    }
}

fn releases(store: &MemStore) -> Releases {
    Releases::new(Arc::new(store.clone()), "guestbook".parse().unwrap())
}

async fn pending(releases: &Releases, draft: Draft) -> Stored {
    match releases.plan(draft).await.unwrap() {
        Step::Release(pending) => pending,
        Step::Start(current) => panic!("{current:?}"),
    }
}

async fn states(releases: &Releases) -> Vec<(u64, ReleaseStatus)> {
    releases
        .all()
        .await
        .unwrap()
        .iter()
        .map(|one| (one.record.release.0, one.record.status))
        .collect()
}

#[tokio::test]
async fn a_release_is_made_when_something_differs_and_only_then() {
    use ReleaseStatus::{Current, Pending, Superseded};
    let store = MemStore::new(100);
    let releases = releases(&store);
    let first = pending(&releases, draft(1, &[])).await;
    assert_eq!(states(&releases).await, [(1, Pending)]);
    releases.succeed(&first).await.unwrap();
    let Step::Start(current) = releases.plan(draft(1, &[])).await.unwrap() else {
        panic!()
    };
    assert_eq!(current.record.release, ReleaseId(1));
    assert_eq!(current.record.status, Current);
    let second = pending(&releases, draft(1, &[("A", "set")])).await;
    assert_eq!(second.record.config(), vars(&[("A", "set"), ("B", "base")]));
    releases.succeed(&second).await.unwrap();
    let third = pending(&releases, draft(2, &[("A", "set")])).await;
    releases.succeed(&third).await.unwrap();
    assert_eq!(
        states(&releases).await,
        [(3, Current), (2, Superseded), (1, Superseded)]
    );
}

#[tokio::test]
async fn a_failed_release_is_taken_up_again_until_something_changes() {
    let store = MemStore::new(100);
    let releases = releases(&store);
    let first = pending(&releases, draft(1, &[])).await;
    releases.fail(&first).await.unwrap();
    let again = pending(&releases, draft(1, &[])).await;
    assert_eq!(again.record.release, ReleaseId(1));
    let is_done = async |of: &Stored| releases.is_phase_done(&of.record).await.unwrap();
    assert!(!is_done(&again).await, "its release phase is to run again");
    releases.note_phase_done(&again.record).await.unwrap();
    releases.fail(&again).await.unwrap();
    let again = pending(&releases, draft(1, &[])).await;
    assert!(is_done(&again).await, "it only did not boot");
    releases.fail(&again).await.unwrap();
    // By slug and config, whatever the number of the release is.
    let same = releases.create(draft(1, &[])).await.unwrap();
    assert!(is_done(&same).await);
    releases.fail(&same).await.unwrap();
    let set = pending(&releases, draft(1, &[("A", "set")])).await;
    assert!(!is_done(&set).await);
    releases.fail(&set).await.unwrap();
    let other = pending(&releases, draft(2, &[])).await;
    assert_eq!(other.record.release, ReleaseId(4));
    assert!(!is_done(&other).await);
    releases.succeed(&other).await.unwrap();
    // Those contents are not the newest any more: they are a new release, whose release phase runs.
    let back = pending(&releases, draft(1, &[])).await;
    assert_eq!(back.record.release, ReleaseId(5));
    assert!(!is_done(&back).await);
}

#[tokio::test]
async fn a_host_that_dies_at_any_write_leaves_a_state_to_start_from() {
    // Each write of two deploys is the last that happens, or the first that does not.
    for fault in [Fault::UnknownBefore, Fault::UnknownAfter] {
        for dies_at in 0..4usize {
            let store = MemStore::new(100);
            {
                let dying = releases(&store);
                let die = std::iter::repeat_n(None, dies_at).chain([Some(fault)]);
                // The attempts to settle it die as well.
                store.inject(die.chain(std::iter::repeat_n(Some(Fault::UnknownBefore), 20)));
                for n in 1..=2 {
                    let Ok(Step::Release(one)) = dying.plan(draft(n, &[])).await else {
                        break;
                    };
                    if dying.succeed(&one).await.is_err() {
                        break;
                    }
                }
            }
            // What is left of the injected faults belongs to the dead one.
            while store.commit(&[], &[]).await.is_err() {}
            let next = releases(&store);
            next.resolve().await.unwrap();
            let all = next.all().await.unwrap();
            let currents = all
                .iter()
                .filter(|one| one.record.status == ReleaseStatus::Current)
                .count();
            assert!(currents <= 1);
            assert!(
                all.iter()
                    .all(|one| one.record.status != ReleaseStatus::Pending)
            );
            match next.plan(draft(2, &[])).await.unwrap() {
                Step::Start(current) => assert_eq!(current.record.slug, slug(2)),
                Step::Release(one) => {
                    next.succeed(&one).await.unwrap();
                }
            }
            let all = next.all().await.unwrap();
            assert_eq!(find_current(&all).unwrap().record.slug, slug(2));
            assert!(all.len() <= 2, "what was begun is gone on with");
        }
    }
}

#[tokio::test]
async fn unknown_outcomes_are_settled_by_reading_again() {
    for fault in [Fault::UnknownBefore, Fault::UnknownAfter] {
        let store = MemStore::new(100);
        let releases = releases(&store);
        store.inject([Some(fault), Some(fault)]);
        let first = pending(&releases, draft(1, &[])).await;
        store.inject([Some(fault)]);
        releases.succeed(&first).await.unwrap();
        assert_eq!(states(&releases).await, [(1, ReleaseStatus::Current)]);
    }
}

#[tokio::test]
async fn another_writer_is_a_conflict_and_not_overwritten() {
    let store = MemStore::new(100);
    let (ours, theirs) = (releases(&store), releases(&store));
    let pending = pending(&ours, draft(1, &[])).await;
    theirs.fail(&pending).await.unwrap();
    assert!(matches!(
        ours.succeed(&pending).await,
        Err(ReleaseError::Conflict(_))
    ));
    assert_eq!(states(&ours).await, [(1, ReleaseStatus::Failed)]);
}

#[tokio::test]
async fn old_releases_are_forgotten_and_their_slugs_sooner() {
    let store = MemStore::new(10_000);
    let releases = releases(&store);
    for n in 0..RELEASES_KEPT + 30 {
        let n = u8::try_from(n % 250).unwrap();
        let one = releases.create(draft(n, &[])).await.unwrap();
        // The first stays current.
        if n == 0 {
            releases.succeed(&one).await.unwrap();
        } else {
            releases.fail(&one).await.unwrap();
        }
    }
    let all = releases.all().await.unwrap();
    assert_eq!(all.len(), RELEASES_KEPT + 1);
    assert_eq!(find_current(&all).unwrap().record.release, ReleaseId(1));
    assert_eq!(wanted_slugs(&store).await.unwrap().len(), SLUGS_KEPT + 1);
}

#[tokio::test]
async fn the_formation_is_kept() {
    let store = MemStore::new(100);
    assert_eq!(releases(&store).formation().await.unwrap(), None);
    let formation = Formation::from([("web".parse().unwrap(), 3)]);
    releases(&store).keep_formation(&formation).await.unwrap();
    assert_eq!(releases(&store).formation().await.unwrap(), Some(formation));
}

#[tokio::test]
async fn config_has_a_bound() {
    let store = MemStore::new(100);
    let large = "x".repeat(MAX_CONFIG);
    let error = releases(&store)
        .create(draft(1, &[("A", &large)]))
        .await
        .unwrap_err();
    assert!(matches!(error, ReleaseError::ConfigSize(_)), "{error}");
}

#[test]
fn changes_of_vars_say_what_they_did() {
    let set = vars(&[("A", "1"), ("B", "2")]);
    let change = BTreeMap::from([
        ("A".to_owned(), Some("1".to_owned())),
        ("B".to_owned(), None),
        ("C".to_owned(), Some("3".to_owned())),
        ("D".to_owned(), None),
    ]);
    let (vars_now, added, removed) = change_vars(&set, &change);
    assert_eq!(vars_now, vars(&[("A", "1"), ("C", "3")]));
    assert_eq!(
        (added, removed),
        (vec!["C".to_owned()], vec!["B".to_owned()])
    );
}
