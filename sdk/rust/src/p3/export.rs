//! What makes a component of an async function.

pub use wasip3;
pub use wasip3::exports::cli::run::Guest as CommandGuest;
pub use wasip3::exports::http::handler::Guest as HandlerGuest;
pub use wasip3::http::types::{
    ErrorCode as WasiErrorCode, Request as WasiRequest, Response as WasiResponse,
};

pub use super::http::handle;

#[doc(hidden)]
#[macro_export]
macro_rules! __handler {
    ($serve:path) => {
        const _: () = {
            struct Component;
            impl $crate::__private::HandlerGuest for Component {
                async fn handle(
                    request: $crate::__private::WasiRequest,
                ) -> ::core::result::Result<$crate::__private::WasiResponse, $crate::__private::WasiErrorCode> {
                    $crate::__private::handle(request, $serve).await
                }
            }
            $crate::__private::wasip3::http::service::export!(Component with_types_in $crate::__private::wasip3);
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __command {
    ($run:expr) => {
        const _: () = {
            struct Component;
            impl $crate::__private::CommandGuest for Component {
                async fn run() -> ::core::result::Result<(), ()> {
                    $run.await
                }
            }
            $crate::__private::wasip3::cli::command::export!(Component with_types_in $crate::__private::wasip3);
        };
    };
}
