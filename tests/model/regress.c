/* Worlds that found a defect, shrunk, with what it was. They are printed by a run that finds one, in the
 * form that is needed here, and stay what they are when the generator changes. */
#include "model.h"

/* clang-format off */
static const Regression scripts[] = {
    {"a create that failed after its snapshot left files that nobody owned",
     2000014,
     1,
     {{ACT_CREATE, 3923000452u, 2862534842u, 444766618u, 2277994811u, {{FAULT_ERROR, 28, 0u}, {0}}},}},
    {"a file that could not be removed was nobody's any more",
     2000051,
     2,
     {{ACT_CREATE, 509281910u, 2547687644u, 1235656540u, 3323240822u, {{0}, {0}}},
      {ACT_DELETE, 1634595557u, 3281376073u, 2847215711u, 998157922u, {{FAULT_ERROR, 26, 0u}, {0}}},}},
    {"an undo's only error left the operation neither done nor as before",
     5000144,
     2,
     {{ACT_POWER, 2967774522u, 2736099116u, 3930425737u, 3235583105u, {{0}, {0}}},
      {ACT_CREATE, 2395655025u, 1660264169u, 1367314093u, 4133405276u, {{FAULT_ERROR, 28, 0u}, {FAULT_ERROR, 18, 0u}}},}},
    {"an undo of a snapshot failed once, and for good",
     5000267,
     2,
     {{ACT_POWER, 1619026638u, 2589900318u, 3474672063u, 3417752783u, {{0}, {0}}},
      {ACT_CREATE, 981468450u, 2024241550u, 2421180343u, 3047064614u, {{FAULT_ERROR, 23, 0u}, {FAULT_ERROR, 8, 0u}}},}},
    {"a clone that only another VM's checkpoint has was merged below",
     5000321,
     9,
     {{ACT_CREATE, 3577944491u, 2043553000u, 2297182368u, 2837015783u, {{0}, {0}}},
      {ACT_CREATE, 3016725448u, 1716419160u, 3975323179u, 3906009467u, {{0}, {0}}},
      {ACT_RESTORE, 3264824251u, 2442302846u, 3363346810u, 2163070395u, {{0}, {0}}},
      {ACT_CLONE, 575074138u, 3340811502u, 3871745083u, 4134804140u, {{0}, {0}}},
      {ACT_RESTORE, 2919598683u, 1513335743u, 2666405881u, 3860203025u, {{0}, {0}}},
      {ACT_DELETE, 545682887u, 3400693154u, 3652137665u, 254052036u, {{0}, {0}}},
      {ACT_DELETE, 619647693u, 1936668996u, 194532947u, 3634355166u, {{0}, {0}}},
      {ACT_DELETE, 3824015067u, 3527250570u, 3066497829u, 2424799905u, {{0}, {0}}},
      {ACT_DELETE, 3032638287u, 2694737452u, 4052317537u, 1402956141u, {{0}, {0}}},}},
    {"a guest was left suspended by a merge that failed at its pivot",
     5000440,
     2,
     {{ACT_CREATE, 2202527625u, 2611483801u, 855832867u, 2832710244u, {{0}, {0}}},
      {ACT_DELETE, 148069679u, 2456752167u, 1723155168u, 845736904u, {{FAULT_ERROR, 20, 0u}, {FAULT_ERROR, 1, 0u}}},}},
    {"an undo after a crash failed once, and for good",
     5000452,
     1,
     {{ACT_CREATE, 3852531662u, 2462029964u, 2172464649u, 2913565807u, {{FAULT_CRASH, 17, 0u}, {FAULT_ERROR, 11, 0u}}},}},
    {"a seal could not be undone once, and for good",
     5000662,
     2,
     {{ACT_ATTACH, 4124621008u, 2418930167u, 414138971u, 3719907842u, {{0}, {0}}},
      {ACT_CREATE, 1864710739u, 2726884545u, 2877246033u, 309585935u, {{FAULT_HOST, 21, 0u}, {FAULT_ERROR, 4, 0u}}},}},
};
/* clang-format on */

const Regression *
regressions(guint *count)
{
    *count = G_N_ELEMENTS(scripts);
    return scripts;
}
