//! What makes a component of an async function.

pub use wasip2;
pub use wasip2::exports::cli::run::Guest as CommandGuest;
pub use wasip2::exports::http::incoming_handler::Guest as HandlerGuest;
pub use wasip2::http::types::{IncomingRequest, ResponseOutparam};

pub use super::guest::{handle, run};

#[doc(hidden)]
#[macro_export]
macro_rules! __handler {
    ($serve:path) => {
        const _: () = {
            struct Component;
            impl $crate::__private::HandlerGuest for Component {
                fn handle(
                    request: $crate::__private::IncomingRequest,
                    out: $crate::__private::ResponseOutparam,
                ) {
                    $crate::__private::handle(request, out, $serve);
                }
            }
            $crate::__private::wasip2::http::proxy::export!(Component with_types_in $crate::__private::wasip2);
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
                fn run() -> ::core::result::Result<(), ()> {
                    $crate::__private::run($run)
                }
            }
            $crate::__private::wasip2::cli::command::export!(Component with_types_in $crate::__private::wasip2);
        };
    };
}
