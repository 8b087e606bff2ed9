use std::sync::Mutex;

use super::*;
use crate::grant::OutputStream;

struct Nothing;

#[async_trait::async_trait]
impl KvBucket for Nothing {
    async fn get(&self, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        Ok(vec![None; keys.len()])
    }
    async fn set(&self, _: Vec<(String, Vec<u8>)>) -> Result<(), KvError> {
        Ok(())
    }
    async fn delete(&self, _: Vec<String>) -> Result<(), KvError> {
        Ok(())
    }
    async fn version(&self, _: String) -> Result<u64, KvError> {
        Ok(0)
    }
    async fn list(&self, _: Option<String>) -> Result<KvKeys<String>, KvError> {
        Ok(KvKeys::default())
    }
    async fn list_created(&self, _: u64) -> Result<KvKeys<u64>, KvError> {
        Ok(KvKeys::default())
    }
    async fn increment(
        &self,
        _: String,
        delta: i128,
        _: RangeInclusive<i128>,
    ) -> Result<i128, KvError> {
        Ok(delta)
    }
    async fn swap(&self, _: String, _: u64, _: Vec<u8>) -> Result<KvSwap, KvError> {
        Ok(KvSwap::Done)
    }
}

#[derive(Default)]
struct Remarks(Mutex<Vec<String>>);

impl DynoLog for Remarks {
    fn line(&self, _: OutputStream, _: &str) {}
    fn remark(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

fn ctx(names: &[&str]) -> (KvCtx, Arc<Remarks>) {
    let log = Arc::new(Remarks::default());
    let bucket = |name: &&str| ((*name).to_owned(), Arc::new(Nothing) as Arc<dyn KvBucket>);
    (
        KvCtx::of(names.iter().map(bucket).collect(), log.clone()),
        log,
    )
}

#[test]
fn default_is_the_only_one() {
    let opens = |names: &[&str], identifier: &str| ctx(names).0.open(identifier).is_ok();
    assert!(opens(&["store"], "default") && opens(&["store"], "store"));
    assert!(!opens(&["store"], "other") && !opens(&["store"], "") && !opens(&[], "default"));
    assert!(!opens(&["a", "b"], "default") && opens(&["a", "b"], "b"));
    assert!(
        opens(&["default", "b"], "default"),
        "a name counts before the rule"
    );
}

#[test]
fn a_refusal_is_remarked_and_the_remarks_are_bounded() {
    let (ctx, log) = ctx(&["a", "b"]);
    for _ in 0..REMARKS + 10 {
        assert!(matches!(
            ctx.clone().open("se\ncret"),
            Err(Error::AccessDenied)
        ));
    }
    let remarks = log.0.lock().unwrap();
    assert_eq!(remarks.len(), REMARKS as usize);
    assert!(
        remarks[0].contains("open(\"se?cret\") denied: this process has the kv add-ons a, b"),
        "{}",
        remarks[0]
    );
}
