use super::*;

const HEAD: &str =
    "[target]\nmenu = 'http://m:1'\norder = 'http://o:1'\nlogistics = 'http://l:1'\n";
const BROWSE: &str =
    "[scenarios.browse]\nflow = 'menu'\nexecutor = 'constant-vus'\nvus = 2\nduration = '5s'\n";

fn parse(text: &str) -> Result<Script, String> {
    Script::parse("a.toml", text, Path::new("/nowhere"))
}

/// The line and the reason of what is wrong with the file.
#[track_caller]
fn problem(text: &str) -> (usize, String) {
    let error = parse(text).unwrap_err();
    let (place, reason) = error.strip_prefix("a.toml:").unwrap().split_once(": ").unwrap();
    (place.parse().unwrap(), reason.to_owned())
}

#[test]
fn a_file_is_read_whole() {
    let script = parse(&format!(
        "seed = 9\n{HEAD}headers = {{ x-role = '${{role}}' }}\n[town]\nrestaurants = 7\n\
         {BROWSE}start_time = '1m30s'\ntags = {{ team = 'red' }}\n\
         settings = {{ lists = 2, what = 'menu-with-status' }}\n\
         [scenarios.drive]\nflow = 'gps'\nexecutor = 'ramping-arrival-rate'\n\
         stages = [{{ duration = '10s', target = 5 }}]\npre_allocated_vus = 3\n\
         [thresholds]\nchecks = ['rate==1']\n\
         'http_req_duration{{team:red,scenario:browse}}' = [\n\
         {{ threshold = 'p(95)<200', abort_on_fail = true, delay_abort_eval = '5s' }}]\n"
    ))
    .unwrap();
    assert_eq!((script.seed, script.scenarios.len(), script.max_vus()), (9, 2, 5));
    assert_eq!(script.scenarios[0].name, "browse", "they keep the order of the file");
    assert_eq!(script.duration(), Duration::from_secs(95));
    assert!(script.has_identities());
    let aborting = script.thresholds.iter().find(|one| one.abort_after.is_some()).unwrap();
    assert_eq!(aborting.abort_after, Some(Duration::from_secs(5)));
    assert_eq!(aborting.selector.tags.len(), 2);
    let shown = script.describe();
    assert!(shown.contains("2 scenarios, 1m35s, up to 5 VUs, 2 thresholds"), "{shown}");
    assert!(shown.contains("browse: menu, up to 2 VUs over 5s, from 1m30s"), "{shown}");
}

#[test]
fn each_mistake_is_told_with_its_line() {
    let lines = HEAD.lines().count();
    // What follows a good scenario, and where the mistake in it is.
    for (text, line, word) in [
        ("[thresholds]\nhttp_rex = ['rate<1']\n", 2, "no metric is called \"http_rex\""),
        ("[thresholds]\nchecks = ['rate==1',\n 'p(95)<1']\n", 3, "checks has rate"),
        ("[thresholds]\nchecks = ['rate']\n", 2, "is not a threshold"),
        ("[thresholds]\n'checks{scenario:none}' = ['rate==1']\n", 2, "\"none\""),
        ("[thresholds]\n'checks{colour:red}' = ['rate==1']\n", 2, "colour"),
        ("[thresholds]\n'fixes{status:500}' = ['count==0']\n", 2, "no sample of fixes has the tag"),
        (
            "[scenarios.two]\nflow = 'menu'\nexecutor = 'constant-vus'\nvus = 2\n\
             duration = '1h'\nstart_time = '47h1s'\n",
            6,
            "is over 48h after",
        ),
        (
            "[scenarios.two]\nflow = 'track'\nexecutor = 'constant-vus'\nvus = 2\n\
             duration = '1h'\n[scenarios.two.settings]\nsession = '99999999999999h'\n",
            7,
            "longer than a week",
        ),
        ("[data.users]\nfile = 'none.csv'\n", 1, "cannot read /nowhere/none.csv"),
        ("[town]\ndrivers = 0\n", 1, "1 to 1000000"),
        ("[town]\ncars = 1\n", 2, "unknown field `cars`"),
        ("[[setup]]\nurl = '${menu}/x'\nmethod = 'STEAL'\n", 1, "STEAL"),
        ("[[setup]]\nurl = '${menu}/${x}'\n", 1, "${x}"),
        ("[nonsense]\n", 1, "unknown field `nonsense`"),
        ("x = ", 1, ""),
        (
            "[scenarios.two]\nflow = 'menu'\nexecutor = 'constant-vus'\nvus = 2\n",
            1,
            "needs duration",
        ),
        ("[scenarios.two]\nflow = 'menus'\n", 2, "unknown variant `menus`"),
        (
            "[scenarios.two]\nflow = 'menu'\nexecutor = 'constant-vus'\nvus = 2\nduration = '5x'\n",
            5,
            "unknown unit \"x\"",
        ),
        (
            "[scenarios.two]\nflow = 'menu'\nexecutor = 'constant-vus'\nvus = 2\nrate = 7\n\
             duration = '5s'\n",
            5,
            "rate is not a setting of constant-vus",
        ),
        (
            "[scenarios.two]\nflow = 'menu'\nexecutor = 'ramping-vus'\nstages = []\n",
            4,
            "there is no stage",
        ),
        (
            "[scenarios.two]\nflow = 'menu'\nexecutor = 'constant-vus'\nvus = 2\nduration = '5s'\n\
             [scenarios.two.settings]\nlists = 1\nbooks = 2\n",
            8,
            "unknown field `books`",
        ),
        (
            "[scenarios.two]\nflow = 'gps'\nexecutor = 'constant-arrival-rate'\nrate = 2\n\
             duration = '5s'\npre_allocated_vus = 1\nsettings = { carrier = 'ws' }\n",
            7,
            "executor of vus",
        ),
        (
            "[scenarios.two]\nflow = 'gps'\nexecutor = 'constant-vus'\nvus = 1001\n\
             duration = '5s'\nsettings = { every = '5s' }\n",
            6,
            "town.drivers is 1000",
        ),
        (
            "[scenarios.two]\nflow = 'requests'\nexecutor = 'constant-vus'\nvus = 2\nduration = '5s'\n\
             [[scenarios.two.settings.steps]]\nurl = '${menu}/a'\ncapture = { a = '/id' }\n\
             [[scenarios.two.settings.steps]]\nurl = '${menu}/${a}/${b}'\n",
            9,
            "${b}",
        ),
        ("[scenarios.two]\nflow = 'menu'\nspeed = 5\n", 3, "unknown field `speed`"),
    ] {
        let whole = format!("{HEAD}{BROWSE}{text}");
        let before = lines + BROWSE.lines().count();
        let (at, reason) = problem(&whole);
        assert_eq!(at - before, line, "{text}\n{reason}");
        assert!(reason.contains(word), "{text}\n{reason}");
    }
}

#[test]
fn a_file_without_what_it_needs_is_refused() {
    assert_eq!(problem("seed = 1\n").1, "there is no [scenarios.NAME]");
    let hidden = problem(&format!("{HEAD}{BROWSE}background = true\n")).1;
    assert!(hidden.contains("in the background"), "{hidden}");
    assert!(problem("[scenarios]\n").1.contains("1 to 64 scenarios"));
    assert!(problem(&format!("[target]\nmenu = 'https://m'\n{BROWSE}")).1.contains("target.menu"));
    // The environment of tests has no addresses of services, or they are those of other tests.
    if std::env::var_os("MENU_URL").is_none() {
        assert!(problem(BROWSE).1.contains("MENU_URL in the environment"));
    }
    let error = Script::load(Path::new("/nowhere/a.toml")).unwrap_err();
    assert!(error.contains("cannot read /nowhere/a.toml"), "{error}");
}

#[test]
fn what_setup_captures_is_known_to_all() {
    let setup = "[[setup]]\nmethod = 'post'\nurl = 'http://login:1/token'\nbody = 'a=b'\n\
                 headers = { content-type = 'application/x-www-form-urlencoded' }\n\
                 capture = { access = '/token' }\n";
    let target = "[target]\nauth = 'none'\nheaders = { authorization = 'Bearer ${access}' }\n";
    let steps = "[scenarios.a]\nflow = 'requests'\nexecutor = 'constant-vus'\nvus = 1\n\
                 duration = '1s'\n[[scenarios.a.settings.steps]]\nurl = 'http://x:1/${access}'\n";
    let script = parse(&format!("{target}{setup}{steps}")).unwrap();
    assert!(script.targets.has_authorization && !script.has_identities());
    assert_eq!(script.targets.bases.len(), 2);
    assert!(problem(&format!("{target}{steps}")).1.contains("${access}"), "nobody captures it");
}

#[test]
fn the_files_that_come_with_the_program_are_good() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut flows = BTreeSet::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            // The addresses come from the environment there, which this test must not change.
            let text = std::fs::read_to_string(&path).unwrap();
            let text = match text.contains("[target]\n") {
                true => text.replacen("[target]\n", HEAD, 1),
                false => format!("{text}\n{HEAD}"),
            };
            let script = Script::parse(&path.display().to_string(), &text, &folder).unwrap();
            flows.extend(script.scenarios.iter().map(|scenario| scenario.flow.kind().name()));
            assert!(!script.thresholds.is_empty(), "{}", path.display());
        }
    }
    let all = ["gps", "menu", "operator", "orders", "requests", "track"];
    assert_eq!(flows.into_iter().collect::<Vec<_>>(), all);
}
