/* A run is a seed and a list of actions, each with its own random numbers: any of them can be left out,
 * and the rest still means the same. */
#include "model.h"

guint64
script_next(guint64 *state)
{
    guint64 z = *state += G_GUINT64_CONSTANT(0x9e3779b97f4a7c15); /* splitmix64 */

    z = (z ^ (z >> 30)) * G_GUINT64_CONSTANT(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * G_GUINT64_CONSTANT(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static const struct {
    const char *name;
    guint weight;
} kinds[ACT_KINDS] = {
#define KIND(name, weight) [name] = {#name, weight}
    KIND(ACT_WRITE, 26),   KIND(ACT_CREATE, 18), KIND(ACT_RESTORE, 13),  KIND(ACT_DELETE, 20),
    KIND(ACT_UPDATE, 2),   KIND(ACT_REPEAT, 3),  KIND(ACT_POWER, 6),     KIND(ACT_RESIZE, 2),
    KIND(ACT_ATTACH, 4),   KIND(ACT_DETACH, 2),  KIND(ACT_CONFIGURE, 2), KIND(ACT_CLONE, 2),
    KIND(ACT_VANISH, 1),   KIND(ACT_REDEFINE, 1), KIND(ACT_RESTART, 1),  KIND(ACT_HOST, 1),
    KIND(ACT_DEFER, 7),    KIND(ACT_FOREIGN, 4),
    KIND(ACT_MIGRATE, 3),  KIND(ACT_LOSE, 2),   KIND(ACT_SAVE, 2),
#undef KIND
};
static const char *const fault_names[FAULT_KINDS] = {
    "FAULT_NONE", "FAULT_ERROR", "FAULT_CRASH",      "FAULT_HOST",        "FAULT_AWAY",
    "FAULT_QEMU", "FAULT_WRITE", "FAULT_OWNER_STOP", "FAULT_OWNER_START",
    "FAULT_SYNC", "FAULT_FULL",  "FAULT_OWNER_SAVE",
};

static ActionKind
draw_kind(guint64 *state)
{
    guint total = 0, drawn;

    for (guint i = 0; i < ACT_KINDS; i++)
        total += kinds[i].weight;
    drawn = (guint)(script_next(state) % total);
    for (guint i = 0; i < ACT_KINDS; i++) {
        if (drawn < kinds[i].weight)
            return (ActionKind)i;
        drawn -= kinds[i].weight;
    }
    g_assert_not_reached();
}

static void
draw_fault(guint64 *state, guint within, Fault *fault)
{
    fault->kind = (FaultKind)(1 + script_next(state) % (FAULT_KINDS - 1));
    fault->at = 1 + (guint)(script_next(state) % within);
    fault->chance = (guint32)script_next(state);
}

void
script_draw(guint64 seed, Action *actions, guint count)
{
    guint64 state = seed ^ G_GUINT64_CONSTANT(0x5eed);

    for (guint i = 0; i < count; i++) {
        Action *action = &actions[i];

        *action = (Action){.kind = draw_kind(&state)};
        action->a = (guint32)script_next(&state);
        action->b = (guint32)script_next(&state);
        action->c = (guint32)script_next(&state);
        action->d = (guint32)script_next(&state);
        if (((action->kind < ACT_CREATE || action->kind > ACT_DELETE) && action->kind != ACT_DEFER &&
             action->kind != ACT_MIGRATE && action->kind != ACT_LOSE) ||
            script_next(&state) % 2)
            continue;
        draw_fault(&state, 50, &action->faults[0]);
        /* A second one is the most telling where the first is being dealt with. */
        if (script_next(&state) % 3 == 0)
            draw_fault(&state, script_next(&state) % 2 ? 4 : 30, &action->faults[1]);
    }
}

char *
script_describe(const Action *action)
{
    GString *text = g_string_new(NULL);

    g_string_append_printf(text, "{%s, %uu, %uu, %uu, %uu, {", kinds[action->kind].name, action->a,
                           action->b, action->c, action->d);
    for (guint i = 0; i < MODEL_FAULTS; i++)
        if (action->faults[i].kind)
            g_string_append_printf(text, "%s{%s, %u, %uu}", i ? ", " : "",
                                   fault_names[action->faults[i].kind], action->faults[i].at,
                                   action->faults[i].chance);
        else
            g_string_append_printf(text, "%s{0}", i ? ", " : "");
    g_string_append(text, "}},");
    return g_string_free(text, FALSE);
}

static void
add_totals(Model *totals, const Model *model)
{
    totals->done += model->done;
    totals->refused += model->refused;
    totals->failed += model->failed;
    totals->recovered += model->recovered;
    totals->fired_count += model->fired_count;
    totals->migrations += model->migrations;
    totals->losses_of_catalogue += model->losses_of_catalogue;
    for (guint i = 0; i < G_N_ELEMENTS(totals->reasons); i++)
        totals->reasons[i] += model->reasons[i];
}

/* After the others the catalogue is as it was, and looked at with the next of these. */
static gboolean
is_checked_in_full(ActionKind kind)
{
    return kind != ACT_WRITE && kind != ACT_POWER && kind != ACT_CONFIGURE && kind != ACT_RESIZE &&
           kind != ACT_SAVE;
}

char *
script_run(guint64 seed, const Action *actions, guint count, const char *dir, gboolean verbose,
           Model *totals)
{
    Model *model = model_new(seed, dir);
    char *violation;

    model->verbose = verbose;
    model->fault = MODEL_FAULTS;
    for (guint i = 0; i < count && !model->other_dir; i++)
        if (actions[i].kind == ACT_MIGRATE || actions[i].kind == ACT_LOSE)
            model_share(model);
    model_agent_start(model);
    for (guint i = 0; i < count && !model->violation && !model->over; i++) {
        if (verbose) {
            g_autofree char *text = script_describe(&actions[i]);

            model_log(model, "%u: %s", i, text);
        }
        model->touched = actions[i].a % MODEL_VMS;
        model_act(model, &actions[i]);
        if (model->over)
            break;
        if (is_checked_in_full(actions[i].kind))
            model_check(model);
        else
            model_check_vms(model);
    }
    violation = g_steal_pointer(&model->violation);
    if (totals)
        add_totals(totals, model);
    model_free(model);
    return violation;
}

/* ---- Shrinking: whatever can be left out without the violation going away ---- */

static gboolean
still_fails(guint64 seed, const Action *actions, guint count, const char *dir)
{
    g_autofree char *violation = script_run(seed, actions, count, dir, FALSE, NULL);

    return violation != NULL;
}

static guint
leave_out(guint64 seed, Action *actions, guint count, guint from, guint length, const char *dir)
{
    g_autofree Action *fewer = g_new(Action, count);

    length = MIN(length, count - from);
    memcpy(fewer, actions, from * sizeof *actions);
    memcpy(fewer + from, actions + from + length, (count - from - length) * sizeof *actions);
    if (!still_fails(seed, fewer, count - length, dir))
        return count;
    memcpy(actions, fewer, (count - length) * sizeof *actions);
    return count - length;
}

static void
drop_faults(guint64 seed, Action *actions, guint count, const char *dir)
{
    for (guint i = 0; i < count; i++)
        for (guint k = MODEL_FAULTS; k > 0; k--) {
            Fault kept = actions[i].faults[k - 1];

            if (kept.kind == FAULT_NONE)
                continue;
            actions[i].faults[k - 1].kind = FAULT_NONE;
            if (!still_fails(seed, actions, count, dir))
                actions[i].faults[k - 1] = kept;
        }
}

guint
script_shrink(guint64 seed, Action *actions, guint count, const char *dir)
{
    guint before;

    do {
        before = count;
        for (guint length = MAX(count / 2, 1); length > 0; length /= 2)
            for (guint from = 0; from < count;) {
                guint left = leave_out(seed, actions, count, from, length, dir);

                if (left == count)
                    from += length;
                count = left;
            }
        drop_faults(seed, actions, count, dir);
    } while (count < before);
    return count;
}
