//! `fields` of `wasi:http`, 0.2 and 0.3: what a guest's header sets take is charged to the instance.
//!
//! wasmtime-wasi-http bounds each set (`limits.header`), but not all of them together: a thousand full ones are a
//! hundred MiB. It also tells nobody when a set goes, so nothing is counted down here: what a guest adds is summed, and
//! each time that it has added [`STEP`], all that its sets take is measured anew.

use http::HeaderMap;
use wasmtime::component::{Linker, Resource, ResourceTable};
use wasmtime::{StoreContextMut, format_err};
use wasmtime_wasi_http::p2::types::{
    HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse,
};
use wasmtime_wasi_http::{FieldMap, WasiHttpView as _, p3};

use crate::budget::Charge;
use crate::engine::Variant;
use crate::state::GuestState;

/// Bytes that a guest may add to its header sets before they are measured; as much is not charged.
const STEP: usize = 256 << 10;
/// What a set, and each header in it, takes beside its text.
const OVERHEAD: usize = 128;

/// What the header sets of one store are charged.
#[derive(Default)]
pub(crate) struct FieldsCharge {
    added: usize,
    charge: Option<Charge>,
}

impl GuestState {
    /// A guest has added so much to its header sets.
    fn added_to_fields(&mut self, bytes: usize) -> wasmtime::Result<()> {
        let fields = &mut self.fields;
        fields.added = fields.added.saturating_add(bytes);
        if fields.added < STEP {
            return Ok(());
        }
        fields.added = 0;
        let bytes = measure(&mut self.table);
        // Given back first: this is the new sum, not more.
        fields.charge = None;
        let budget = self.limiter.budget();
        fields.charge = budget.hold(bytes as u64);
        if fields.charge.is_none() {
            budget.refuse();
            return Err(format_err!(
                "its header sets take {bytes} bytes, which its limit of {} bytes has no room for",
                budget.limit()
            ));
        }
        Ok(())
    }
}

/// What all header sets of a store take.
fn measure(table: &mut ResourceTable) -> usize {
    let mut sum = 0usize;
    for entry in table.iter_mut() {
        let headers: &HeaderMap = if let Some(fields) = entry.downcast_ref::<FieldMap>() {
            fields
        } else if let Some(request) = entry.downcast_ref::<HostOutgoingRequest>() {
            &request.headers
        } else if let Some(response) = entry.downcast_ref::<HostOutgoingResponse>() {
            &response.headers
        } else if let Some(response) = entry.downcast_ref::<HostIncomingResponse>() {
            &response.headers
        } else if let Some(request) = entry.downcast_ref::<p3::Request>() {
            &request.headers
        } else if let Some(response) = entry.downcast_ref::<p3::Response>() {
            &response.headers
        } else {
            continue;
        };
        sum = sum.saturating_add(size(headers));
    }
    sum
}

fn size(headers: &HeaderMap) -> usize {
    let each = headers
        .iter()
        .map(|(name, value)| header(name.as_str(), value.as_bytes()));
    each.sum::<usize>().saturating_add(OVERHEAD)
}

fn header(name: &str, value: &[u8]) -> usize {
    name.len()
        .saturating_add(value.len())
        .saturating_add(OVERHEAD)
}

/// Links what makes or fills a header set again, so that it is counted.
pub(crate) fn add_to_linker(
    linker: &mut Linker<GuestState>,
    variant: Variant,
) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let linked = p2_fields(linker).and_then(|()| match variant {
        Variant::Serial => Ok(()),
        Variant::Concurrent => p3_fields(linker),
    });
    linker.allow_shadowing(false);
    linked
}

/// The two WASIs have the same functions over the same sets, and errors of their own.
macro_rules! fields {
    ($name:ident, $instance:literal, $types:path) => {
        fn $name(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
            use $types::{HeaderError, HostFields};
            type Fields = Resource<FieldMap>;
            type Answer<T> = wasmtime::Result<(Result<T, HeaderError>,)>;
            type Guest<'a> = StoreContextMut<'a, GuestState>;

            let mut types = linker.instance($instance)?;
            types.func_wrap("[constructor]fields", |mut guest: Guest<'_>, (): ()| {
                let state = guest.data_mut();
                let fields = HostFields::new(&mut state.http())?;
                state.added_to_fields(OVERHEAD)?;
                Ok((fields,))
            })?;
            types.func_wrap(
                "[static]fields.from-list",
                |mut guest: Guest<'_>, (list,): (Vec<(String, Vec<u8>)>,)| -> Answer<Fields> {
                    let state = guest.data_mut();
                    let added = list.iter().map(|(name, value)| header(name, value)).sum();
                    match HostFields::from_list(&mut state.http(), list) {
                        Ok(fields) => {
                            state.added_to_fields(added)?;
                            Ok((Ok(fields),))
                        }
                        Err(error) => Ok((Err(error.downcast()?),)),
                    }
                },
            )?;
            types.func_wrap(
                "[method]fields.set",
                |mut guest: Guest<'_>,
                 (fields, name, values): (Fields, String, Vec<Vec<u8>>)|
                 -> Answer<()> {
                    let state = guest.data_mut();
                    let added = values.iter().map(|value| header(&name, value)).sum();
                    match HostFields::set(&mut state.http(), fields, name, values) {
                        Ok(()) => {
                            state.added_to_fields(added)?;
                            Ok((Ok(()),))
                        }
                        Err(error) => Ok((Err(error.downcast()?),)),
                    }
                },
            )?;
            types.func_wrap(
                "[method]fields.append",
                |mut guest: Guest<'_>,
                 (fields, name, value): (Fields, String, Vec<u8>)|
                 -> Answer<()> {
                    let state = guest.data_mut();
                    let added = header(&name, &value);
                    match HostFields::append(&mut state.http(), fields, name, value) {
                        Ok(()) => {
                            state.added_to_fields(added)?;
                            Ok((Ok(()),))
                        }
                        Err(error) => Ok((Err(error.downcast()?),)),
                    }
                },
            )?;
            types.func_wrap(
                "[method]fields.clone",
                |mut guest: Guest<'_>, (fields,): (Fields,)| {
                    let state = guest.data_mut();
                    let clone = HostFields::clone(&mut state.http(), fields)?;
                    // It shares the other's memory until either is changed.
                    let added = size(state.table.get(&clone)?);
                    state.added_to_fields(added)?;
                    Ok((clone,))
                },
            )
        }
    };
}

fields!(
    p2_fields,
    "wasi:http/types@0.2.12",
    wasmtime_wasi_http::p2::bindings::http::types
);
fields!(
    p3_fields,
    "wasi:http/types@0.3.0",
    wasmtime_wasi_http::p3::bindings::http::types
);
