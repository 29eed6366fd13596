//! What a JSON schema would cost to compile, found out before it is tried.
//!
//! Neighbours: `guide` refuses what this finds too large. The compiler recurses through
//! references and copies what it merges, so a schema of a few kilobytes can ask for any depth of
//! stack and any amount of memory.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

/// The most values in a schema.
const VALUES: usize = 10_000;
/// The most levels that references can stack up. The stack of [`STACK_BYTES`] holds them.
const LEVELS: usize = 2_000;
/// The most parts of a schema after merging.
const PARTS: u64 = 100_000;
/// The most that all `multipleOf` may have as a common multiple: the compiler holds a state for
/// each remainder.
const MULTIPLE: u128 = 100_000;
/// Of the thread that compiles: a level takes at most 20 KiB, also where nothing is optimised.
pub(super) const STACK_BYTES: usize = 64 << 20;

/// Refuses a schema that is too large to compile.
///
/// Needs a stack for [`LEVELS`] levels.
///
/// # Errors
/// What is too large, by how much it may be.
pub(super) fn check(root: &Value) -> Result<(), String> {
    let mut survey = Survey::default();
    let deepest = survey.of(root);
    let values = survey.nesting.len();
    if values > VALUES {
        return Err(format!("expected at most {VALUES} values, but got {values}"));
    }
    let targets = survey.references.iter().filter_map(|path| target(root, path));
    let levels = targets.filter_map(|to| survey.nesting.get(&std::ptr::from_ref(to)));
    let levels = levels.sum::<usize>() + deepest;
    if levels > LEVELS {
        return Err(format!(
            "expected at most {LEVELS} levels through references, but got {levels}"
        ));
    }
    if common_multiple(&survey.multiples).is_none_or(|multiple| multiple > MULTIPLE) {
        return Err(format!(
            "expected values of 'multipleOf' with a common multiple of at most {MULTIPLE} last \
             places"
        ));
    }
    let weight = Scale { root, known: HashMap::new() }.weigh(root, false);
    match weight.parts > PARTS {
        true => Err(format!("merged, it has more than {PARTS} parts")),
        false => Ok(()),
    }
}

/// What there is in a schema, wherever it stands.
#[derive(Default)]
struct Survey<'a> {
    /// The levels of each value.
    nesting: HashMap<*const Value, usize>,
    references: HashSet<&'a str>,
    /// What `multipleOf` says, in decimals.
    multiples: HashSet<String>,
}

impl<'a> Survey<'a> {
    /// The levels of a value.
    fn of(&mut self, value: &'a Value) -> usize {
        let below = match value {
            Value::Array(items) => items.iter().map(|item| self.of(item)).max(),
            Value::Object(fields) => {
                self.references.extend(fields.get("$ref").and_then(Value::as_str));
                let multiple = fields.get("multipleOf").and_then(Value::as_f64);
                self.multiples.extend(multiple.map(|multiple| multiple.abs().to_string()));
                fields.values().map(|field| self.of(field)).max()
            }
            _ => None,
        };
        let levels = below.unwrap_or(0) + 1;
        self.nesting.insert(value, levels);
        levels
    }
}

/// The least common multiple of decimals, in units of their last place; none if it is absurd.
/// Zeros have no part in it.
fn common_multiple(decimals: &HashSet<String>) -> Option<u128> {
    let places = |text: &str| text.split_once('.').map_or(0, |(_, places)| places.len());
    let most = decimals.iter().map(|text| places(text)).max().unwrap_or(0);
    decimals.iter().try_fold(1_u128, |multiple, text| {
        let digits = text.replace('.', "") + &"0".repeat(most - places(text));
        let number: u128 = digits.parse().ok()?;
        match number {
            0 => Some(multiple),
            _ => (multiple / divisor(multiple, number)).checked_mul(number),
        }
    })
}

/// The greatest common divisor of numbers above 0.
const fn divisor(one: u128, other: u128) -> u128 {
    if other == 0 { one } else { divisor(other, one % other) }
}

/// What a reference leads to; the compiler knows no other kind and words what is wrong with one.
fn target<'a>(root: &'a Value, path: &str) -> Option<&'a Value> {
    if matches!(path, "#" | "#/") {
        return Some(root);
    }
    path.strip_prefix("#/")?.split('/').try_fold(root, |value, segment| match value {
        Value::Array(items) => items.get(segment.parse::<usize>().ok()?),
        other => other.get(segment),
    })
}

/// What a schema comes to.
#[derive(Clone, Copy, Debug)]
struct Weight {
    /// Its parts, as the compiler holds them.
    parts: u64,
    /// The most alternatives at any one place: so often are parts of another schema copied that
    /// is merged with it there.
    options: u64,
    /// The most fields or items named at any one place.
    named: u64,
    /// It says something of fields or items that others name, which is copied for each of them.
    spreads: bool,
}

impl Weight {
    const ONE: Self = Self { parts: 1, options: 1, named: 1, spreads: false };

    /// Side by side.
    fn beside(all: impl Iterator<Item = Self>) -> Self {
        all.fold(Self::ONE, |sum, one| Self {
            parts: sum.parts.saturating_add(one.parts),
            options: sum.options.max(one.options),
            named: sum.named.max(one.named),
            spreads: sum.spreads || one.spreads,
        })
    }

    /// How often it copies what it is merged with.
    const fn copies(self, other: Self) -> u64 {
        self.options.saturating_mul(if other.spreads { self.named } else { 1 })
    }

    /// Merged into one.
    fn merged(self, other: Self) -> Self {
        let ours = self.parts.saturating_mul(other.copies(self));
        let theirs = other.parts.saturating_mul(self.copies(other));
        Self {
            parts: ours.saturating_add(theirs),
            options: self.options.saturating_mul(other.options),
            named: self.named.saturating_add(other.named),
            spreads: self.spreads || other.spreads,
        }
    }
}

struct Scale<'a> {
    root: &'a Value,
    /// Targets of references; none while one is being weighed.
    known: HashMap<&'a str, Option<Weight>>,
}

impl<'a> Scale<'a> {
    /// The weight of a schema; where it is `merged` with others, references are put in.
    fn weigh(&mut self, schema: &'a Value, merged: bool) -> Weight {
        let Value::Object(fields) = schema else { return Weight::ONE };
        let members = ["allOf", "anyOf", "oneOf", "$ref", "enum", "const"];
        let own = fields.keys().any(|key| !members.contains(&key.as_str()));
        let all = fields.get("allOf").and_then(Value::as_array).map_or(0, Vec::len);
        let others = members[1..].iter().filter(|key| fields.contains_key(**key)).count();
        let merged = merged || usize::from(own) + all + others > 1;
        let mut weights = Vec::new();
        if own {
            weights.push(self.own(fields, merged));
        }
        for item in fields.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            weights.push(self.weigh(item, merged));
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(options) = fields.get(key).and_then(Value::as_array) {
                let weight = Weight::beside(options.iter().map(|one| self.weigh(one, merged)));
                let options = weight.options.max(options.len() as u64);
                weights.push(Weight { options, ..weight });
            }
        }
        if let Some(options) = fields.get("enum").and_then(Value::as_array) {
            let parts = options.iter().map(size).sum::<u64>().max(1);
            weights.push(Weight { parts, options: options.len().max(1) as u64, ..Weight::ONE });
        }
        if let Some(value) = fields.get("const") {
            weights.push(Weight { parts: size(value), ..Weight::ONE });
        }
        if let Some(path) = fields.get("$ref").and_then(Value::as_str)
            && merged
        {
            weights.push(self.reference(path));
        }
        weights.into_iter().reduce(Weight::merged).unwrap_or(Weight::ONE)
    }

    /// The weight of what a schema says itself.
    fn own(&mut self, fields: &'a Map<String, Value>, merged: bool) -> Weight {
        let mut children: Vec<&Value> = Vec::new();
        // What holds for fields or items that another schema names.
        let spreads: Vec<&Value> = ["additionalProperties", "items"]
            .into_iter()
            .filter_map(|key| fields.get(key))
            .filter(|value| value.is_object())
            .collect();
        for key in ["properties", "patternProperties"] {
            children.extend(
                fields.get(key).and_then(Value::as_object).into_iter().flat_map(Map::values),
            );
        }
        children.extend(fields.get("prefixItems").and_then(Value::as_array).into_iter().flatten());
        let named = children.len() as u64;
        children.extend(&spreads);
        let weight = Weight::beside(children.into_iter().map(|child| self.weigh(child, merged)));
        let spreads = weight.spreads || !spreads.is_empty();
        Weight { named: weight.named.max(named), spreads, ..weight }
    }

    /// The weight of what a reference leads to. One that leads to itself is put in once; the
    /// compiler counts what it puts in beyond that, and refuses it.
    fn reference(&mut self, path: &'a str) -> Weight {
        if let Some(known) = self.known.get(path) {
            return known.unwrap_or(Weight::ONE);
        }
        self.known.insert(path, None);
        let weight = target(self.root, path).map_or(Weight::ONE, |to| self.weigh(to, true));
        self.known.insert(path, Some(weight));
        weight
    }
}

/// The values in a value.
fn size(value: &Value) -> u64 {
    1 + match value {
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(fields) => fields.values().map(size).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Definitions that each hold what `each` makes of the reference to the next.
    fn chain(length: usize, each: impl Fn(Value) -> Value) -> Value {
        let to = |place: usize| json!({"$ref": format!("#/$defs/d{place}")});
        let mut all: Map<String, Value> =
            (0..length).map(|place| (format!("d{place}"), each(to(place + 1)))).collect();
        all.insert(format!("d{length}"), json!({"type": "array"}));
        json!({"$ref": "#/$defs/d0", "$defs": all})
    }

    fn names(count: usize, value: &Value) -> Map<String, Value> {
        (0..count).map(|place| (format!("n{place}"), value.clone())).collect()
    }

    #[test]
    fn what_would_cost_too_much_is_refused() {
        let options: Vec<Value> = (0..500).map(|n| json!({"minProperties": n})).collect();
        for (schema, expected) in [
            (json!({"enum": vec![0; 20_000]}), "at most 10000 values, but got 20002"),
            (chain(1500, |next| next), "at most 2000 levels through references, but got"),
            (chain(700, |next| json!({"items": next})), "levels through references"),
            // Each puts the next one in twice.
            (
                chain(40, |next| {
                    let merged = json!({"allOf": [next, {"minItems": 1}]});
                    json!({"prefixItems": [merged, merged]})
                }),
                "merged, it has more than 100000 parts",
            ),
            // Each alternative gets all fields.
            (
                json!({"allOf": [{"anyOf": options}, {"properties": names(500, &json!(true))}]}),
                "merged, it has",
            ),
            // Each field gets what holds for the others.
            (
                json!({"allOf": [
                    {"properties": names(500, &json!(true))},
                    {"additionalProperties": {"properties": names(500, &json!(true))}},
                ]}),
                "merged, it has",
            ),
            (json!({"multipleOf": 1_000_003}), "multiple of at most 100000"),
            (json!({"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}), "'multipleOf'"),
            (json!({"items": {"multipleOf": 1e300}}), "'multipleOf'"),
        ] {
            let error = check(&schema).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_people_ask_for_is_taken() {
        let list = json!({"type": "object", "properties": {
            "value": {"type": "number", "multipleOf": 0.01},
            "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        }});
        let base = json!({"properties": names(40, &json!({"type": ["string", "null"]}))});
        for schema in [
            json!(true),
            json!({"$ref": "#"}),
            json!({"$ref": "#/nowhere"}),
            list,
            json!({"enum": vec!["a"; 9_000]}),
            json!({"allOf": [{"$ref": "#/$defs/base"}, base], "$defs": {"base": base}}),
            chain(200, |next| json!({"type": "object", "properties": {"next": next}})),
            json!({"anyOf": [{"multipleOf": 60}, {"multipleOf": 0.25}, {"multipleOf": 0}]}),
        ] {
            assert_eq!(check(&schema), Ok(()), "{schema}");
        }
    }
}
