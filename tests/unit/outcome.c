#include "tests/unit/outcome.h"

#include "tests/unit/cmocka_all.h"

void
outcome_take(CkptOperation *op, const GError *error, gpointer data)
{
    Outcome *outcome = data;

    g_mutex_lock(&outcome->lock);
    outcome->answers++;
    g_clear_pointer(&outcome->op, ckpt_operation_free);
    g_clear_error(&outcome->error);
    outcome->op = op;
    outcome->error = error ? g_error_copy(error) : NULL;
    g_cond_signal(&outcome->done);
    g_mutex_unlock(&outcome->lock);
}

/* The main context carries the waiters' time limits and the engine's retries. */
void
outcome_wait(Outcome *outcome, guint answers)
{
    gint64 until = g_get_monotonic_time() + 30 * G_TIME_SPAN_SECOND;

    for (;;) {
        gboolean enough;

        g_mutex_lock(&outcome->lock);
        if (outcome->answers < answers)
            g_cond_wait_until(&outcome->done, &outcome->lock,
                              g_get_monotonic_time() + 10 * G_TIME_SPAN_MILLISECOND);
        enough = outcome->answers >= answers;
        g_mutex_unlock(&outcome->lock);
        if (enough)
            return;
        while (g_main_context_iteration(NULL, FALSE))
            ;
        if (g_get_monotonic_time() > until)
            fail_msg("no answer");
    }
}

void
outcome_clear(Outcome *outcome)
{
    g_clear_pointer(&outcome->op, ckpt_operation_free);
    g_clear_error(&outcome->error);
}

void
outcome_call(CkptEngine *engine, CkptRequest *request, Outcome *outcome)
{
    guint answers = outcome->answers + 1;

    ckpt_engine_submit(engine, request, outcome_take, outcome);
    outcome_wait(outcome, answers);
}
