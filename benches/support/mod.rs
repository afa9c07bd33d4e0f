//! Measuring: several ways of doing one thing take turns, round by round, so that a busy moment of the machine meets all of
//! them alike. Each round's figure is held against the baseline's of the same round; the tables show the median of these
//! ratios and the middle half of them. Absolute figures are printed too, but only the ratios say something about other machines.
#![allow(dead_code, reason = "each benchmark uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a benchmark that cannot run stops"
)]

pub(crate) mod bare;
pub(crate) mod entries;
pub(crate) mod etcd;
pub(crate) mod postgres;
pub(crate) mod sockets;

use std::time::Instant;

/// One way of doing the thing measured. A round returns its figures by name, the same names each time ("p50", "p99", "ns").
pub(crate) struct Case<'a> {
    pub(crate) name: String,
    run: Box<dyn FnMut() -> Vec<(&'static str, f64)> + 'a>,
}

impl<'a> Case<'a> {
    pub(crate) fn new(
        name: impl Into<String>,
        run: impl FnMut() -> Vec<(&'static str, f64)> + 'a,
    ) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
        }
    }

    /// Measures a call in a tight loop, in nanoseconds each, under the name "ns".
    pub(crate) fn per_call(
        name: impl Into<String>,
        calls: u32,
        mut call: impl FnMut() + 'a,
    ) -> Self {
        Self::new(name, move || {
            let begin = Instant::now();
            for _ in 0..calls {
                call();
            }
            vec![("ns", begin.elapsed().as_secs_f64() * 1e9 / f64::from(calls))]
        })
    }
}

/// What a case measured in each round.
pub(crate) struct Figures {
    pub(crate) name: String,
    rounds: Vec<Vec<(&'static str, f64)>>,
}

impl Figures {
    /// The figures of one name, in the order of the rounds.
    pub(crate) fn of(&self, figure: &str) -> Vec<f64> {
        let of = |round: &Vec<(&'static str, f64)>| {
            round
                .iter()
                .find(|(name, _)| *name == figure)
                .map(|(_, value)| *value)
        };
        self.rounds
            .iter()
            .map(|round| of(round).unwrap_or_else(|| panic!("{} measured no {figure}", self.name)))
            .collect()
    }

    /// This case against another, round by round.
    pub(crate) fn against(&self, baseline: &Figures, figure: &str) -> Spread {
        Spread::of(
            self.of(figure)
                .iter()
                .zip(baseline.of(figure))
                .map(|(mine, base)| mine / base)
                .collect(),
        )
    }
}

/// The median and the middle half of some figures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    pub(crate) fn of(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        Self {
            low: quantile(&figures, 0.25),
            median: quantile(&figures, 0.5),
            high: quantile(&figures, 0.75),
        }
    }
}

/// The value below which `part` of the sorted figures lie.
pub(crate) fn quantile(sorted: &[f64], part: f64) -> f64 {
    assert!(!sorted.is_empty(), "nothing was measured");
    let place = part * (sorted.len() - 1) as f64;
    let (below, above) = (
        sorted[place.floor() as usize],
        sorted[place.ceil() as usize],
    );
    below + (above - below) * place.fract()
}

/// The median and the 99th percentile of single latencies, named "p50" and "p99".
pub(crate) fn latencies(mut each: Vec<f64>) -> Vec<(&'static str, f64)> {
    each.sort_by(f64::total_cmp);
    vec![
        ("p50", quantile(&each, 0.5)),
        ("p99", quantile(&each, 0.99)),
    ]
}

/// Whether only one short round is wanted, to see that the benchmarks work: `SYNC_CONFIG_BENCH_SMOKE=1 cargo bench`.
pub(crate) fn smoke() -> bool {
    std::env::var_os("SYNC_CONFIG_BENCH_SMOKE").is_some()
}

/// Runs the cases in turn: one round unmeasured, then `rounds`, each beginning with another case.
pub(crate) fn in_turn(rounds: usize, mut cases: Vec<Case<'_>>) -> Vec<Figures> {
    let count = cases.len();
    let rounds = if smoke() { 1 } else { rounds };
    let mut figures: Vec<Figures> = cases
        .iter()
        .map(|case| Figures {
            name: case.name.clone(),
            rounds: Vec::new(),
        })
        .collect();
    for case in &mut cases {
        (case.run)();
    }
    for round in 0..rounds {
        for turn in 0..count {
            let place = (round + turn) % count;
            figures[place].rounds.push((cases[place].run)());
        }
    }
    figures
}

/// What a ratio must not pass, or must reach.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// Shown, not judged.
    Told,
}

/// Prints the head of a table of ratios.
pub(crate) fn table(title: &str) {
    println!("\n### {title}\n");
    println!("| what | figure | baseline | measured | ratio (middle half) | target | met |");
    println!("|---|---|---|---|---|---|---|");
}

/// Prints one row: a case against its baseline in one figure, `unit` being that of the figure.
pub(crate) fn row(case: &Figures, baseline: &Figures, figure: &str, unit: &str, target: Target) {
    let (base, mine) = (Spread::of(baseline.of(figure)), Spread::of(case.of(figure)));
    let ratio = case.against(baseline, figure);
    let (wanted, met) = match target {
        Target::AtMost(bound) => (
            format!("≤ {bound}"),
            if ratio.median <= bound {
                "yes"
            } else {
                "**no**"
            },
        ),
        Target::AtLeast(bound) => (
            format!("≥ {bound}"),
            if ratio.median >= bound {
                "yes"
            } else {
                "**no**"
            },
        ),
        Target::Told => ("–".to_owned(), "–"),
    };
    println!(
        "| {} / {} | {figure} | {} {unit} | {} {unit} | **{:.2}** ({:.2}..{:.2}) | {wanted} | {met} |",
        case.name,
        baseline.name,
        short(base.median),
        short(mine.median),
        ratio.median,
        ratio.low,
        ratio.high
    );
}

/// Prints the head of a table of figures that have a bound of their own, whatever a baseline says.
pub(crate) fn bounds(title: &str) {
    println!("\n### {title}\n");
    println!("| what | times | median | 99th percentile | longest | bound | met |");
    println!("|---|---|---|---|---|---|---|");
}

/// Prints one row of it: the 99th percentile must not pass the bound.
pub(crate) fn bounded(what: &str, unit: &str, mut each: Vec<f64>, most: Option<f64>) {
    each.sort_by(f64::total_cmp);
    let [median, late, longest] = [0.5, 0.99, 1.0].map(|part| quantile(&each, part));
    let (bound, met) = match most {
        Some(most) if late <= most => (format!("≤ {most} {unit}"), "yes"),
        Some(most) => (format!("≤ {most} {unit}"), "**no**"),
        None => ("–".to_owned(), "–"),
    };
    let [median, late, longest] = [median, late, longest].map(short);
    println!(
        "| {what} | {} | {median} {unit} | {late} {unit} | {longest} {unit} | {bound} | {met} |",
        each.len()
    );
}

/// A figure with three digits that matter.
pub(crate) fn short(figure: f64) -> String {
    let digits = if figure >= 100.0 {
        0
    } else if figure >= 10.0 {
        1
    } else {
        2
    };
    format!("{figure:.digits$}")
}
