#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Fast,
    Careful,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Config {
    database_url: String,
    page_size: usize,
    verbose: Option<bool>,
    mode: Option<Mode>,
    #[serde(default)]
    tags: Vec<String>,
}

fn load_pairs<T: serde::de::DeserializeOwned>(pairs: &[(&str, &str)]) -> Result<T, Error> {
    load_from(|name| {
        pairs
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    })
}

#[test]
fn a_struct_is_read_by_its_fields_in_capitals() {
    let config: Config = load_pairs(&[
        ("DATABASE_URL", "postgres://db"),
        ("PAGE_SIZE", " 20 "),
        ("VERBOSE", "true"),
        ("MODE", "careful"),
        ("TAGS", "a, b,,c"),
    ])
    .unwrap();
    let expected = Config {
        database_url: "postgres://db".to_owned(),
        page_size: 20,
        verbose: Some(true),
        mode: Some(Mode::Careful),
        tags: ["a", "b", "c"].map(str::to_owned).to_vec(),
    };
    assert_eq!(config, expected);
}

#[test]
fn absent_and_empty_options_are_none_and_defaults_apply() {
    let config: Config =
        load_pairs(&[("DATABASE_URL", ""), ("PAGE_SIZE", "1"), ("VERBOSE", "")]).unwrap();
    assert_eq!(
        (config.verbose, config.mode, config.tags.len()),
        (None, None, 0)
    );
}

#[test]
fn errors_name_the_variable() {
    let missing = load_pairs::<Config>(&[("PAGE_SIZE", "1")]).unwrap_err();
    assert_eq!(missing, Error::Missing("DATABASE_URL".to_owned()));
    assert!(
        missing
            .to_string()
            .starts_with("config var DATABASE_URL is not set; set it with `oarlock config set")
    );

    let invalid =
        load_pairs::<Config>(&[("DATABASE_URL", "x"), ("PAGE_SIZE", "many")]).unwrap_err();
    assert_eq!(
        invalid.to_string(),
        "config var PAGE_SIZE: invalid digit found in string"
    );

    let variant =
        load_pairs::<Config>(&[("DATABASE_URL", "x"), ("PAGE_SIZE", "1"), ("MODE", "slow")])
            .unwrap_err();
    assert_eq!(
        variant.to_string(),
        "config var MODE: it must be one of fast, careful"
    );
}

#[test]
fn errors_do_not_repeat_the_value() {
    let error =
        load_pairs::<Config>(&[("DATABASE_URL", "x"), ("PAGE_SIZE", "hunter2")]).unwrap_err();
    assert!(!error.to_string().contains("hunter2"));
}

#[test]
fn only_structs_can_be_loaded() {
    assert!(matches!(
        load_pairs::<Vec<String>>(&[]),
        Err(Error::Unsupported(_))
    ));
}

#[test]
fn single_variables_are_parsed_or_defaulted() {
    assert_eq!(var_or("OARLOCK_TEST_UNSET", 5).unwrap(), 5);
    assert_eq!(
        var::<u16>("OARLOCK_TEST_UNSET"),
        Err(Error::Missing("OARLOCK_TEST_UNSET".to_owned()))
    );
    assert!(
        var::<u16>("PATH")
            .unwrap_err()
            .to_string()
            .starts_with("config var PATH: ")
    );
}
