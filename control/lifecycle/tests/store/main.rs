//! The store: one suite for both engines, and what only one of them can do wrong.

mod after;
mod cases;
mod crash;
mod home;
mod migration;
mod model;
mod postgres_away;
mod speed;
mod sqlite_file;

use home::Home;

/// Every case as a test of each engine.
macro_rules! on_both_engines {
    ($($case:ident),+ $(,)?) => {
        mod on_sqlite {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                cases::$case(&Home::sqlite()).await;
            })+
        }

        mod on_postgresql {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "needs root"]
            async fn $case() {
                cases::$case(&Home::postgresql()).await;
            })+
        }
    };
}

on_both_engines!(
    accounts_and_pools_come_back,
    every_shape_of_tunnel_comes_back,
    secrets_come_back_and_go_with_the_account,
    every_constraint_has_its_name,
    a_refused_group_leaves_nothing_and_harms_no_other,
    what_is_given_up_can_be_taken_in_the_same_batch,
    several_writes_of_one_tunnel_in_a_batch,
    a_batch_is_committed_once,
    a_commit_that_was_broken_off_is_done_once,
    ids_are_never_given_twice,
    prune_keeps_to_age_and_number,
    tombstones_come_back_while_in_quarantine,
    prefixes_come_back_while_in_quarantine,
    a_closed_store_is_unavailable,
);
