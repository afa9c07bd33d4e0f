//! The arithmetic of the A/B testing example, against the vectors that EXAMPLES.md gives to other languages.

#[path = "../../examples/experiment/mod.rs"]
mod experiment;

use std::collections::BTreeMap;

use experiment::{BUCKETS, Experiment, bucket};
use serde_json::{Value, json};

fn definition(salt: &str, allocation: u32, weights: &[u32]) -> Value {
    let variant = |(at, weight)| json!({ "name": format!("v{at}"), "weight": weight });
    let variants: Vec<Value> = weights.iter().enumerate().map(variant).collect();
    json!({ "salt": salt, "allocation": allocation, "variants": variants })
}

fn experiment(salt: &str, allocation: u32, weights: &[u32]) -> Experiment {
    serde_json::from_value(definition(salt, allocation, weights)).unwrap()
}

#[test]
fn the_buckets_are_those_of_the_test_vectors_on_the_examples_page() {
    let page = include_str!("../../EXAMPLES.md");
    let (_, rows) = page
        .split_once("| salt | unit | allocation | variant |\n| --- | --- | --- | --- |\n")
        .unwrap();
    let rows = rows.lines().take_while(|line| line.starts_with('|'));
    let mut checked = 0;
    for row in rows {
        let cells: Vec<&str> = row
            .split('|')
            .map(|cell| cell.trim().trim_matches('`'))
            .collect();
        let [_, salt, unit, allocation, variant, _] = cells[..] else {
            panic!("{row}");
        };
        assert_eq!(
            bucket(salt, "allocation", unit).to_string(),
            allocation,
            "{row}"
        );
        assert_eq!(bucket(salt, "variant", unit).to_string(), variant, "{row}");
        checked += 1;
    }
    assert_eq!(checked, 6);
}

#[test]
fn sequential_units_fall_evenly_into_buckets() {
    let mut counts = vec![0_u32; 100];
    for unit in 0..100_000 {
        counts[bucket("checkout-1", "variant", &unit.to_string()) as usize / 100] += 1;
    }
    // Chi-squared with 99 degrees of freedom: above 150 in 1 of 1,000 cases by chance.
    let squares = counts.iter().map(|count| count.abs_diff(1_000).pow(2));
    let chi_squared = squares.sum::<u32>() / 1_000;
    assert!(chi_squared < 150, "{chi_squared}: {counts:?}");
}

#[test]
fn experiments_do_not_depend_on_each_other_nor_the_variant_on_the_allocation() {
    let halves = |salt: &str, purpose: &str| -> Vec<bool> {
        let low = |unit: u32| bucket(salt, purpose, &unit.to_string()) < BUCKETS / 2;
        (0..40_000).map(low).collect()
    };
    let all = [
        halves("exp-1", "variant"),
        halves("exp-2", "variant"),
        halves("exp-1", "allocation"),
    ];
    for (at, one) in all.iter().enumerate() {
        for other in &all[at + 1..] {
            let both = one
                .iter()
                .zip(other)
                .filter(|(one, other)| **one && **other);
            // 10,000 expected, a standard deviation of 87.
            let both = both.count();
            assert!((9_600..10_400).contains(&both), "{both}");
        }
    }
}

#[test]
fn weights_are_kept_and_nobody_who_takes_part_is_without_a_variant() {
    let everybody = experiment("weights", BUCKETS, &[7_000, 0, 2_000, 1_000]);
    let mut counts = BTreeMap::new();
    for unit in 0..100_000 {
        let variant = everybody.variant(&unit.to_string()).unwrap().to_owned();
        *counts.entry(variant).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 3, "{counts:?}");
    for (variant, expected) in [("v0", 70_000), ("v2", 20_000), ("v3", 10_000)] {
        let there: i32 = counts[variant];
        assert!((there - expected).abs() < 600, "{counts:?}");
    }
}

#[test]
fn a_growing_allocation_moves_nobody_to_another_variant() {
    let steps = [0, 1, 100, 2_500, 9_999, BUCKETS];
    let steps: Vec<_> = steps
        .map(|step| experiment("growth", step, &[5_000, 5_000]))
        .into();
    for unit in (0..20_000).map(|unit| unit.to_string()) {
        let seen: Vec<_> = steps
            .iter()
            .filter_map(|step| step.variant(&unit))
            .collect();
        assert!(
            seen.windows(2).all(|two| two[0] == two[1]),
            "{unit}: {seen:?}"
        );
        let last = steps.len() - seen.len();
        let stays = steps[last..]
            .iter()
            .all(|step| step.variant(&unit).is_some());
        assert!(stays, "{unit} left again");
    }
    let nobody = (0..1_000).all(|unit| steps[0].variant(&unit.to_string()).is_none());
    assert!(nobody && Experiment::nobody().variant("1").is_none());
}

#[test]
fn a_definition_that_does_not_hold_together_is_refused_with_the_reason() {
    let refused = |definition: Value| {
        let error = serde_json::from_value::<Experiment>(definition).unwrap_err();
        error.to_string()
    };
    for (definition, reason) in [
        (
            definition("s", 1, &[5_000, 4_999]),
            "add up to 9999, not to 10000",
        ),
        (
            definition("s", 1, &[u32::MAX, u32::MAX]),
            "add up to 8589934590",
        ),
        (definition("s", 1, &[]), "add up to 0"),
        (definition("s", 10_001, &[10_000]), "10001 is above 10000"),
        (definition("", 1, &[10_000]), "a text without"),
        (definition("a:b", 1, &[10_000]), "a text without"),
    ] {
        let error = refused(definition);
        assert!(error.contains(reason), "{error}");
    }
    let mut twice = definition("s", 1, &[5_000, 5_000]);
    twice["variants"][1]["name"] = json!("v0");
    assert!(refused(twice).contains("the same name"));
    let mut misspelt = definition("s", 1, &[10_000]);
    misspelt["alocation"] = json!(1);
    assert!(refused(misspelt).contains("unknown field"));
}
