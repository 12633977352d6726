//! `loadtest run` against a server in memory: what is due is sent, what is measured is true, and the
//! exit code says what came of it.

mod server;

use std::{
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use clap::Parser as _;
use loadtest::run::{
    command::{self, Done},
    summary::Summary,
};
use serde_json::Value;
use server::{Manners, Server};
use tokio_util::sync::CancellationToken;

use crate::cli::Cli;

const SLOW: Manners = Manners { slow: Duration::from_millis(300), fails: None };

/// A folder with a scenario file that requests `/` of the server.
struct File {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl File {
    /// `executor` is the scenario's lines, `rest` what follows its one step.
    fn new(server: &Server, executor: &str, rest: &str) -> Self {
        let url = &server.url;
        Self::of(&format!(
            "[target]\nauth = 'none'\n[scenarios.visit]\nflow = 'requests'\n{executor}\n\
             [[scenarios.visit.settings.steps]]\nname = 'home'\nurl = '{url}/'\n\
             checks = [{{ status = 200 }}]\n{rest}"
        ))
    }

    fn of(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scenario.toml");
        std::fs::write(&path, text).unwrap();
        Self { folder, path }
    }

    async fn run_until(&self, stop: CancellationToken) -> anyhow::Result<Summary> {
        let words = ["run", self.path.to_str().unwrap(), "--no-calibration", "--processes", ""];
        match command::start(&Cli::<command::Args>::parse_from(words).args, stop).await? {
            Done::Ran(summary) => Ok(*summary),
            Done::Checked(text) => unreachable!("{text}"),
        }
    }

    async fn run(&self) -> Summary {
        self.run_until(CancellationToken::new()).await.unwrap()
    }

    /// The real program.
    async fn program(&self, flags: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
        command.arg("run").arg(&self.path).args(flags).current_dir(self.folder.path());
        for name in ["ORDER_URL", "MENU_URL", "LOGISTICS_URL", "DEVSTACK_PROCESSES"] {
            command.env_remove(name);
        }
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
}

fn figure(summary: &Summary, metric: &str, name: &str) -> f64 {
    let metric = summary.metrics.get(metric).unwrap_or_else(|| panic!("no {metric}"));
    metric.values.get(name).copied().unwrap_or_else(|| panic!("no {name} in {metric:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_model_counts_from_the_time_that_was_due() {
    let server = Server::start(SLOW).await;
    let executor = "executor = 'constant-arrival-rate'\nrate = 50\nduration = '1s'\n\
                    pre_allocated_vus = 1\nmax_vus = 5\nmax_wait = '60s'";
    let summary = File::new(&server, executor, "").run().await;
    let text = summary.to_text();
    assert_eq!(figure(&summary, "http_reqs", "count"), 50.0, "{text}");
    assert_eq!(figure(&summary, "vus_max", "value"), 5.0, "{text}");
    assert!(!summary.metrics.contains_key("dropped_iterations"), "{text}");
    // Five users at 300 ms need 3 s for 50 requests, of which the last was due within the first.
    assert!(figure(&summary, "http_req_duration", "max") > 1_900.0, "{text}");
    assert!(figure(&summary, "iteration_duration", "max") > 1_900.0, "{text}");
    // The server itself took no longer for those that waited.
    let waiting = figure(&summary, "http_req_waiting", "max");
    assert!(waiting < figure(&summary, "http_req_duration", "max"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn arrivals_that_find_nobody_free_are_dropped_and_told() {
    let server = Server::start(SLOW).await;
    let executor = "executor = 'constant-arrival-rate'\nrate = 50\nduration = '1s'\n\
                    pre_allocated_vus = 5\nmax_wait = '0s'";
    let rest = "[thresholds]\ndropped_iterations = ['count==0']\n";
    let summary = File::new(&server, executor, rest).run().await;
    let text = summary.to_text();
    let dropped = figure(&summary, "dropped_iterations", "count");
    // Within a second five users make at most four requests of 300 ms each.
    assert!(dropped >= 30.0, "{text}");
    assert_eq!(figure(&summary, "iterations", "count") + dropped, 50.0, "{text}");
    assert_eq!(server.came().len() as f64 + dropped, 50.0);
    assert!(!summary.passed && text.contains("iterations dropped"), "{text}");
    assert!(summary.generator.warnings.iter().any(|one| one.contains("dropped")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_model_waits_for_the_server() {
    let server = Server::start(SLOW).await;
    let executor = "executor = 'constant-vus'\nvus = 5\nduration = '1s'";
    let summary = File::new(&server, executor, "").run().await;
    // Slow answers slow it down instead of being felt by those that come after.
    let requests = figure(&summary, "http_reqs", "count");
    assert!((5.0..=20.0).contains(&requests), "{}", summary.to_text());
    assert_eq!(requests, server.came().len() as f64);
    assert!(!summary.metrics.contains_key("dropped_iterations"));
    assert_eq!(figure(&summary, "vus_max", "value"), 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_too_long_at_the_end_is_cut_off() {
    let server = Server::start(Manners { slow: Duration::from_secs(3600), fails: None }).await;
    let executor = "executor = 'constant-vus'\nvus = 4\nduration = '1h'\ngraceful_stop = '100ms'";
    let file = File::new(&server, executor, "");
    let stop = CancellationToken::new();
    let (summary, ()) = tokio::join!(file.run_until(stop.clone()), async {
        while server.came().len() < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
    });
    let summary = summary.unwrap();
    let text = summary.to_text();
    assert_eq!(figure(&summary, "interrupted_iterations", "count"), 4.0, "{text}");
    assert_eq!(figure(&summary, "vus_max", "value"), 4.0, "{text}");
    assert_eq!(server.came().len(), 4);
    assert!(!summary.metrics.contains_key("iterations"));
    assert_eq!(summary.scenarios[0].interrupted, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_there_at_the_end_may_finish_whatever_the_ramp_down_says() {
    let server = Server::start(SLOW).await;
    let executor = "executor = 'ramping-vus'\nstart_vus = 3\ngraceful_ramp_down = '0s'\n\
                    stages = [{ duration = '250ms', target = 3 }]";
    let summary = File::new(&server, executor, "").run().await;
    let text = summary.to_text();
    assert_eq!(figure(&summary, "iterations", "count"), 3.0, "{text}");
    assert!(!summary.metrics.contains_key("interrupted_iterations"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_background_ends_with_the_others() {
    let server = Server::start(Manners::default()).await;
    let executor = "executor = 'constant-vus'\nvus = 1\nduration = '1h'\nbackground = true";
    let rest = format!(
        "[scenarios.few]\nflow = 'requests'\nexecutor = 'constant-arrival-rate'\nrate = 10\n\
         duration = '500ms'\npre_allocated_vus = 1\n[[scenarios.few.settings.steps]]\n\
         url = '{}/few'\n",
        server.url
    );
    let summary = File::new(&server, executor, &rest).run().await;
    assert!(summary.passed && summary.aborted.is_none(), "{}", summary.to_text());
    let text = summary.to_text();
    assert!(!text.contains("\n\n\n"), "who has no checks has no lines for them: {text}");
    assert_eq!(summary.scenarios[1].iterations, 5);
    assert!(summary.scenarios[0].iterations > 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_says_what_came_of_it() {
    let server = Server::start(Manners::default()).await;
    let executor =
        "executor = 'constant-arrival-rate'\nrate = 20\nduration = '1s'\npre_allocated_vus = 5";
    for (threshold, code) in [("count==20", 0), ("count>20", 1)] {
        let rest = format!("[thresholds]\n'http_reqs{{scenario:visit}}' = ['{threshold}']\n");
        let output = File::new(&server, executor, &rest).program(&["--no-calibration"]).await;
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{text}");
        let mark = if code == 0 { '✓' } else { '✗' };
        assert!(text.contains(&format!("{mark}   {{ scenario:visit }}")), "{text}");
        assert!(text.contains("✓ status is 200"), "{text}");
    }
    let before = server.came().len();
    let bad = File::new(&server, &format!("{executor}\nvus = 5"), "");
    let output = bad.program(&[]).await;
    let error = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("scenario.toml:9: scenarios.visit: vus is not a setting"), "{error}");
    let good = File::new(&server, executor, "");
    for (flags, code) in [(&["--check"][..], 0), (&["--html", "none/a.html"][..], 2)] {
        let output = good.program(flags).await;
        assert_eq!(output.status.code(), Some(code), "{flags:?}");
    }
    assert_eq!(server.came().len(), before, "nothing is sent before all is checked");
    // A token is needed, and there is no key.
    let text = std::fs::read_to_string(&good.path).unwrap().replace("auth = 'none'", "");
    let text = text.replace("checks =", "as = { role = 'driver', subject = 1 }\nchecks =");
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .env_remove("AUTH_SIGNING_KEY_FILE")
        .args(["run", "--check"])
        .arg(&File::of(&text).path)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_measures_itself_and_writes_what_it_has_seen() {
    let server = Server::start(Manners { fails: Some(10), ..Manners::default() }).await;
    let executor = "executor = 'constant-arrival-rate'\nrate = 100\nduration = '2s'\n\
                    pre_allocated_vus = 5\nmax_vus = 50\ntags = { team = 'red' }";
    let rest = "[thresholds]\n'http_req_failed{team:red}' = ['rate<0.5']\n\
                http_req_duration = ['p(99)<60000']\nfixes = ['count==0']\n";
    let file = File::new(&server, executor, rest);
    let output = file.program(&["--summary", "out.json", "--html", "out.html"]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("its own maximum here"), "{text}");
    assert!(text.contains("failed requests, visit: 20 × status 500 (10.00%)"), "{text}");

    let json = std::fs::read(file.folder.path().join("out.json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!((&json["passed"], &json["seed"]), (&true.into(), &0.into()));
    assert_eq!(json["metrics"]["http_reqs"]["values"]["count"], 200.0);
    assert_eq!(json["metrics"]["http_req_failed"]["values"]["passes"], 20.0);
    assert_eq!(json["metrics"]["http_req_failed{team:red}"]["values"]["rate"], 0.1);
    assert_eq!(json["thresholds"].as_array().unwrap().len(), 3);
    assert_eq!(json["checks"][0]["fails"], 20);
    assert_eq!(json["requests"][0]["name"], "home");
    assert_eq!(json["requests"][0]["statuses"]["500"], 20);
    let failures = serde_json::json!([
        {"scenario": "visit", "reason": "status 500", "count": 20, "share": 0.1}
    ]);
    assert_eq!(json["failures"], failures);
    assert_eq!(json["scenarios"][0]["iterations"], 200);
    let seconds = json["seconds"].as_array().unwrap();
    let requests: u64 = seconds.iter().map(|one| one["all"]["requests"].as_u64().unwrap()).sum();
    assert_eq!(requests, 200, "each request is in one second");
    assert!(json["generator"]["calibration"]["requests_per_s"].as_f64().unwrap() > 100.0);
    assert!(json["generator"]["used"].as_f64().unwrap() > 0.0);

    let html = std::fs::read_to_string(file.folder.path().join("out.html")).unwrap();
    assert!(html.matches("<svg").count() >= 5 && html.contains("polyline"), "charts with lines");
    let row = "<td>status 500</td><td class=n>20</td><td class=n>10.00 %</td>";
    let charts = ["Latency over time", "CPU, busy cores"];
    for word in ["scenario.toml", "visit", "home", row].into_iter().chain(charts) {
        assert!(html.contains(word), "{word}");
    }
    for elsewhere in ["http:", "https:", "src=", "href=", "url(", "@import", "<script"] {
        assert!(!html.contains(elsewhere), "{elsewhere}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_can_end_the_run_and_teardown_follows() {
    let server = Server::start(Manners { fails: Some(1), ..Manners::default() }).await;
    let url = &server.url;
    let executor = "executor = 'constant-vus'\nvus = 2\nduration = '1h'";
    let rest = format!(
        "[[teardown]]\nurl = '{url}/end'\nexpect = [500]\n\
         [thresholds]\nhttp_req_failed = [{{ threshold = 'rate<0.1', abort_on_fail = true }}]\n"
    );
    let summary = File::new(&server, executor, &rest).run().await;
    let why = summary.aborted.as_deref().unwrap();
    assert!(why.contains("http_req_failed: rate<0.1"), "{why}");
    assert!(!summary.passed && summary.teardown_failed.is_none());
    assert_eq!(server.came().last().unwrap().line, "GET /end");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stopped_is_measured_and_torn_down() {
    let server = Server::start(Manners::default()).await;
    let executor = "executor = 'constant-arrival-rate'\nrate = 100\nduration = '1h'\n\
                    pre_allocated_vus = 2";
    let rest = format!("[[teardown]]\nurl = '{}/end'\n", server.url);
    let file = File::new(&server, executor, &rest);
    let stop = CancellationToken::new();
    let (summary, ()) = tokio::join!(file.run_until(stop.clone()), async {
        while server.came().len() < 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
    });
    let summary = summary.unwrap();
    assert_eq!(summary.aborted.as_deref(), Some("it was stopped"));
    let came = server.came();
    assert_eq!(came.last().unwrap().line, "GET /end");
    assert_eq!(
        figure(&summary, "http_reqs", "count"),
        came.len() as f64 - 1.0,
        "teardown is no load"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_filled_in_captured_and_checked() {
    let server = Server::start(Manners::default()).await;
    let url = &server.url;
    let file = File::of(&format!(
        r#"
seed = 3
[target]
auth = "none"
headers = {{ authorization = "Bearer ${{access}}", x-tenant = "t-${{seed}}" }}
[data.users]
file = "users.csv"
[[setup]]
method = "POST"
url = "{url}/login"
capture = {{ access = "/nested/id" }}
[[teardown]]
url = "{url}/logout/${{access}}"
[scenarios.shop]
flow = "requests"
executor = "constant-arrival-rate"
rate = 4
duration = "1s"
pre_allocated_vus = 1
[[scenarios.shop.settings.steps]]
url = "{url}/u/${{users.id}}"
capture = {{ n = "/number" }}
checks = [{{ header = "x-kind", equals = "test" }}, {{ json = "/number", min = 1000 }},
          {{ header = "X-Kind", exists = true }}]
[[scenarios.shop.settings.steps]]
name = "second"
method = "PUT"
url = "{url}/items?by=${{users.name}}"
headers = {{ x-tenant = "own" }}
json = {{ n = "${{n}}", text = "n ${{n}}", list = [1, "${{iteration}}"] }}
[[scenarios.shop.settings.steps]]
url = "{url}/never/${{gone}}"
expect = [404]
[[scenarios.shop.settings.steps]]
url = "{url}/after-a-failure"
"#
    ));
    // A variable that nothing captures is found before anything is sent.
    std::fs::write(file.folder.path().join("users.csv"), "id,name\n5,Ann B\n6,Ben\n").unwrap();
    let error = file.run_until(CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("${gone}"), "{error}");
    assert!(server.came().is_empty());
    let text = std::fs::read_to_string(&file.path).unwrap().replace("/${gone}", "");
    std::fs::write(&file.path, text).unwrap();
    let summary = file.run().await;

    let came = server.came();
    let lines: Vec<_> = came.iter().map(|came| came.line.as_str()).collect();
    assert_eq!(lines[0], "POST /login");
    assert_eq!(lines[1..4], ["GET /u/5", "PUT /items?by=Ann%20B", "GET /never"]);
    assert_eq!(
        lines[4..6],
        ["GET /u/6", "PUT /items?by=Ben"],
        "the second iteration, the second row"
    );
    assert_eq!(*lines.last().unwrap(), "GET /logout/n-1");
    assert!(!lines.contains(&"GET /after-a-failure"), "{lines:?}");
    assert_eq!((came[0].authorization.as_str(), came[0].tenant.as_str()), ("", "t-3"));
    assert_eq!((came[1].authorization.as_str(), came[1].tenant.as_str()), ("Bearer n-1", "t-3"));
    assert_eq!(came[2].tenant, "own");
    let body: Value = serde_json::from_str(&came[2].body).unwrap();
    assert_eq!(body, serde_json::json!({"n": 2, "text": "n 2", "list": [1, 0]}));
    let check = |name: &str| summary.checks.iter().find(|check| check.name == name).unwrap();
    assert_eq!(check("x-kind is \"test\"").passes, 4);
    assert_eq!(check("X-Kind exists").passes, 4);
    assert_eq!(check("/number is at least 1000").fails, 4);
    assert_eq!(figure(&summary, "http_req_failed", "passes"), 4.0, "404 was expected");
    assert_eq!(figure(&summary, "http_reqs", "count"), 12.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_reached_is_an_error_that_is_counted() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::at(format!("http://{}", gone.local_addr().unwrap()));
    drop(gone);
    let executor =
        "executor = 'constant-arrival-rate'\nrate = 10\nduration = '1s'\npre_allocated_vus = 2";
    let summary = File::new(&server, executor, "").run().await;
    assert_eq!(figure(&summary, "http_req_failed", "rate"), 1.0);
    assert_eq!(summary.errors[0].count, 10, "{:?}", summary.errors);
    assert_eq!(summary.requests[0].statuses[&0], 10);
    assert!(!summary.metrics.contains_key("data_sent"), "{:?}", summary.metrics);
    assert!(summary.passed, "there is no threshold");
    let text = summary.to_text();
    assert!(text.contains("failed requests, visit: 10 × connection refused (100.00%)"), "{text}");
    let rest = format!("[[setup]]\nurl = '{}/'\n", server.url);
    let failed = File::new(&server, executor, &rest).run_until(CancellationToken::new()).await;
    assert!(failed.unwrap_err().to_string().contains("setup: GET /: no answer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_a_connection_that_was_closed_is_sent_again_where_that_does_no_harm() {
    let executor =
        "executor = 'constant-arrival-rate'\nrate = 3\nduration = '1s'\npre_allocated_vus = 1";
    for (method, failed, came) in [("GET", 0.0, 4), ("PUT", 0.0, 4), ("POST", 1.0, 3)] {
        let server = Server::start_with_a_broken_connection().await;
        let file = File::new(&server, executor, "");
        let text = std::fs::read_to_string(&file.path).unwrap();
        let text = text.replace("name = 'home'\n", &format!("method = '{method}'\n"));
        std::fs::write(&file.path, text).unwrap();
        let summary = file.run().await;
        let text = summary.to_text();
        assert_eq!(figure(&summary, "http_reqs", "count"), 3.0, "{text}");
        assert_eq!(figure(&summary, "http_req_failed", "passes"), failed, "{text}");
        assert_eq!(figure(&summary, "http_req_connecting", "count"), 2.0, "{text}");
        assert_eq!(server.came().len(), came, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_ends_with_the_first_request_that_fails() {
    let server = Server::start(Manners { fails: Some(2), ..Manners::default() }).await;
    let url = &server.url;
    let mut rest = format!("[[teardown]]\nurl = '{url}/end'\n");
    for step in ["one", "two", "three"] {
        rest += &format!("[[setup]]\nname = '{step}'\nurl = '{url}/{step}'\n");
    }
    let executor = "executor = 'constant-vus'\nvus = 1\nduration = '1h'";
    let failed = File::new(&server, executor, &rest).run_until(CancellationToken::new()).await;
    let why = failed.unwrap_err().to_string();
    assert!(why.contains("setup: two: status 500"), "{why}");
    let lines: Vec<_> = server.came().into_iter().map(|came| came.line).collect();
    assert_eq!(lines, ["GET /one", "GET /two", "GET /end"], "nothing more is set up");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_is_a_failure() {
    let server = Server::start(Manners::default()).await;
    let (url, gone) = (&server.url, tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
    let nobody = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let file = File::of(&format!(
        r#"
[target]
auth = "none"
[data.users]
file = "users.csv"
[[teardown]]
url = "{url}/"
[[teardown]]
name = "elsewhere"
url = "{nobody}/"
expect = [0]
capture = {{ made = "/number" }}
[[teardown]]
name = "remove it"
method = "DELETE"
url = "{url}/items/${{made}}"
[scenarios.visit]
flow = "requests"
executor = "constant-arrival-rate"
rate = 3
duration = "1s"
pre_allocated_vus = 1
[[scenarios.visit.settings.steps]]
url = "{url}/"
as = {{ role = "customer", subject = "${{users.id}}" }}
"#
    ));
    std::fs::write(file.folder.path().join("users.csv"), "id\nAnn\n").unwrap();
    let summary = file.run().await;
    assert_eq!(figure(&summary, "http_req_failed", "passes"), 3.0, "{}", summary.to_text());
    assert_eq!((summary.errors[0].kind.as_str(), summary.errors[0].count), ("not sent", 3));
    // What was answered before, by somebody else, is not what this one has answered.
    let why = summary.teardown_failed.as_deref().unwrap();
    assert!(why.contains("elsewhere: nothing at /number"), "{why}");
    let lines: Vec<_> = server.came().into_iter().map(|came| came.line).collect();
    assert_eq!(lines, ["GET /"], "nothing is removed that nobody has made");
}
