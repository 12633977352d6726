use super::*;
use crate::demo::figures::count;

#[test]
fn every_promise_can_fail() {
    let good = Findings { distinct: 10, stored: 10, ..Findings::default() };
    let all = |menus: &Outcome,
               orders: &books::Outcome,
               findings: &Findings,
               backlog: Backlog,
               figures: &Figures| {
        let summary = Summary {
            title: "a town",
            ran_for: Duration::from_secs(60),
            under_way: 0,
            snapshot: &Snapshot::default(),
            figures,
            lag: None,
            cpu: None,
            backlog,
            findings,
            menus,
            orders,
        };
        assert_eq!(summary.is_good(), !summary.text().contains("FAIL"));
        summary.is_good()
    };
    let menus = |menus: &Outcome, findings: &Findings, backlog, figures: &Figures| {
        all(menus, &books::Outcome::Off, findings, backlog, figures)
    };
    let verdict = |findings: &Findings, backlog, figures: &Figures| {
        menus(&Outcome::Off, findings, backlog, figures)
    };
    let (empty, calm) = (Backlog::default(), Figures::new());
    assert!(verdict(&good, empty, &calm));
    for bad in [
        Findings { lost: 1, ..good.clone() },
        Findings { duplicated: 1, ..good.clone() },
        Findings { foreign: 1, ..good.clone() },
        Findings { altered: 1, ..good.clone() },
        Findings { current_wrong: 1, ..good.clone() },
        Findings::default(),
    ] {
        assert!(!verdict(&bad, empty, &calm), "{bad:?}");
    }
    assert!(!verdict(&good, Backlog { waiting: 0, pending: 1 }, &calm));
    let refused = Figures::new();
    count(&refused.refused, 1);
    assert!(!verdict(&good, empty, &refused));
    let gap = Figures::new();
    count(&gap.status_gaps, 1);
    assert!(!verdict(&good, empty, &gap));
    let seen = menu::Findings { reads: 10, ..menu::Findings::default() };
    for fine in [Outcome::Checked(seen.clone()), Outcome::TooShort] {
        assert!(menus(&fine, &good, empty, &calm), "{fine:?}");
    }
    for bad in [
        Outcome::Checked(menu::Findings { older: 1, violations: 1, ..seen.clone() }),
        Outcome::Checked(menu::Findings { altered: 1, violations: 1, ..seen }),
        Outcome::Checked(menu::Findings::default()),
        Outcome::Failed("the restaurants cannot be imported".to_owned()),
    ] {
        assert!(!menus(&bad, &good, empty, &calm), "{bad:?}");
    }
    let orders = |outcome: &books::Outcome| all(&Outcome::Off, outcome, &good, empty, &calm);
    let kept =
        books::Findings { charges_agree: true, refunds_agree: true, ..books::Findings::default() };
    assert!(orders(&books::Outcome::Checked(kept.clone())));
    for bad in [
        books::Findings { lost: 1, ..kept.clone() },
        books::Findings { foreign: 1, ..kept.clone() },
        books::Findings { stuck: 1, ..kept.clone() },
        books::Findings { charged_twice: 1, ..kept.clone() },
        books::Findings { captured: 1, ..kept.clone() },
        books::Findings { charges_agree: false, ..kept.clone() },
        books::Findings { owed: 1, ..kept.clone() },
        books::Findings { refunds: 1, ..kept.clone() },
        books::Findings { refunds_agree: false, ..kept },
    ] {
        assert!(!orders(&books::Outcome::Checked(bad.clone())), "{bad:?}");
    }
    assert!(!orders(&books::Outcome::Failed("the books cannot be read".to_owned())));
}
