/* Inside of vmx/: tables as enums, the state of one vCPU's VMX unit, calls between the files. */
#ifndef NB_VMX_PRIV_H
#define NB_VMX_PRIV_H

#include "base/log.h"
#include "bus/clock.h"
#include "cpu/core.h"
#include "cpu/mmu.h"
#include "isa/decode.h"
#include "mem/mem.h"
#include "state/state.h"
#include "vmx/nest.h"
#include "vmx/vmx.h"

#define VMCS_REVISION 0x4e420001u /* "NB" and the version of fields.def's slot order */
#define VMCS_SHADOW BIT(31)       /* in the revision word: shadow-VMCS indicator */
#define VMCS_NONE (~(u64)0)       /* "current-VMCS pointer is not valid" */

/* ---- fields.def ---- */
enum vmcs_slot {
#define FIELD(enc, name, kind, gate) VF_##name,
#include "vmx/fields.def"
#undef FIELD
	VF_COUNT
};

#define VMCS_FIRST_GUEST VF_GUEST_ES_SELECTOR /* controls and the host's state come before it */
#define VMCS_END_GUEST VF_INSN_ERROR

enum field_kind { FIELD_CTL, FIELD_GUEST, FIELD_HOST, FIELD_RO };

struct field_info {
	const char *name;
	u16 encoding;  /* without the access-type bit */
	u8 bytes;      /* 2, 4 or 8 (64-bit and natural width) */
	u8 kind;       /* enum field_kind */
	u8 gate;       /* enum vmx_control, CTL_ALWAYS */
	bool natural;
};
extern const struct field_info vmcs_fields[VF_COUNT];
/* Slot of an encoding (access-type bit ignored), or -1. */
int vmcs_slot_of(u32 encoding);

/* ---- controls.def ---- */
enum control_group { GROUP_PIN, GROUP_PROC, GROUP_PROC2, GROUP_EXIT, GROUP_ENTRY, GROUP_COUNT };
enum vmx_control {
#define DEFAULT1(group, legacy, true_)
#define CONTROL(group, bit, id, text, supported) CTL_##id = GROUP_##group * 32 + (bit),
#include "vmx/controls.def"
#undef CONTROL
#undef DEFAULT1
	CTL_ALWAYS = 255
};
/* The manual's name of bit n of a control group, or NULL when the bit is reserved here. */
const char *vmx_control_name(unsigned group, unsigned bit_nr);

/* ---- exits.def, errors.def ---- */
enum exit_reason {
#define EXIT(n, name) EXIT_##name = (n),
#include "vmx/exits.def"
#undef EXIT
};
#define EXIT_ENTRY_FAILURE BIT(31)

enum vmx_error {
#define VMERR(n, name, text) VMERR_##name = (n),
#include "vmx/errors.def"
#undef VMERR
};
const char *vmx_error_text(unsigned number);

/* ---- checks.def ---- */
enum vmx_check {
#define CHECK(group, id, field, when, bad, must, because, section) CHECK_##id,
#include "vmx/checks.def"
#undef CHECK
	CHECK_COUNT
};

/* ---- VMCS page in guest RAM ---- */
struct vmcs {
	u32 revision;
	u32 abort;
	u32 launched;     /* 0 clear, else launched */
	u32 pad[13];
	u64 f[VF_COUNT];  /* by enum vmcs_slot; the guest may scribble on it: read once, mask */
};
_Static_assert(sizeof(struct vmcs) <= PAGE_SIZE, "VMCS does not fit in its page");

static inline u64 vmcs_get(const struct vmcs *m, enum vmcs_slot s)
{
	return __atomic_load_n(&m->f[s], __ATOMIC_RELAXED);
}
static inline void vmcs_set(struct vmcs *m, enum vmcs_slot s, u64 v)
{
	__atomic_store_n(&m->f[s], v, __ATOMIC_RELAXED);
}

/* ---- saved state ---- */
/* Outside guest mode only on, vmxon_ptr and vmcs_ptr mean anything. What is here beside the VMCS: progress that no VMCS
 * field holds. */
#define VMX_STATE(F, A) \
	F(u64, vmxon_ptr) \
	F(u64, vmcs_ptr)       /* VMCS_NONE = no current VMCS */ \
	F(u64, timer_end)      /* preemption timer: raw TSC >> VMX_TIMER_SHIFT at which it reaches 0 */ \
	F(u64, ple_first) F(u64, ple_last) /* TSC of the first and the latest PAUSE of a loop */ \
	F(u16, apic_off)       /* page offset of the write that needs APIC-write emulation */ \
	F(u8, on)              /* in VMX operation */ \
	F(u8, apic_write)      /* APIC-write emulation is due after this instruction */ \
	F(u8, tpr_below)       /* TPR-below-threshold exit is due */ \
	F(u8, eoi_exit)        /* EOI-induced exit is due, vector below */ \
	F(u8, eoi_vector) \
	F(u8, virt_intr)       /* a virtual interrupt is recognised */ \
	F(u8, apic_exit)       /* APIC-write exit is due */ \
	A(u8, pad_, 7)
STATE_STRUCT(vmx_state, VMX_STATE);
extern const struct state_desc vmx_state_state;

struct vmx_caps {
	u32 allowed0[GROUP_COUNT], true_allowed0[GROUP_COUNT], allowed1[GROUP_COUNT];
	u64 basic, misc, cr0_fixed0, cr0_fixed1, cr4_fixed0, cr4_fixed1, vmcs_enum, ept_vpid, vmfunc;
};

#define VMX_TIMER_SHIFT 5      /* IA32_VMX_MISC[4:0]: the preemption timer counts TSC >> 5 */
#define VMX_CR3_TARGETS 4
#define VMX_MSR_LIST_MAX 512

/* The exit that a walk or an access asked for; taken by take_exit (EVENT_VIRT). */
struct pending_exit {
	u32 reason;
	u64 qualification, linear, physical;
	bool has_linear, has_physical;
	bool convertible; /* EPT violation that may become #VE */
	bool restart;     /* no exit: run the instruction again, as a block of its own */
};

/* What an exit reports beside reason and qualification. */
struct exit_info {
	u32 intr, intr_error, vectoring, vectoring_error, len, info;
	u64 linear, physical;
	bool has_linear, has_physical;
	u8 rf;            /* enum exit_rf */
};
enum exit_rf { RF_KEEP, RF_SET, RF_CLEAR };

/* Segment and table registers as one piece, in the order of struct cpu_arch. */
struct vmx_segs {
	struct seg seg[SEG_COUNT], ldtr, tr;
	struct dtable gdtr, idtr;
};
_Static_assert(sizeof(struct vmx_segs) == 224 && sizeof(struct vmx_segs) == offsetof(struct cpu_arch, idtr) + sizeof(struct dtable) - offsetof(struct cpu_arch, seg),
	       "the same in struct cpu_arch");

struct vmx {
	struct vmx_state s;        /* saved; must be first */

	/* ---- caches, rebuilt by vmx_refresh() ---- */
	struct vmcs *vmcs;         /* page of s.vmcs_ptr, NULL when there is none */
	i64 vmcs_frame;            /* its RAM frame, -1 when it is not RAM (then vmcs points to scratch) */
	u64 f[VF_COUNT];           /* guest mode: the VMCS as it was at VM entry, masked to field widths */
	u32 ctl[GROUP_COUNT];      /* guest mode: control words in effect; PROC2 is 0 when not activated */
	const u8 *msr_bitmap, *io_bitmap_a, *io_bitmap_b, *vmread_bitmap,
	    *vmwrite_bitmap;	   /* host addresses; all ones when not RAM */
	u8 *vapic;                 /* virtual-APIC page; scratch when not RAM */
	i64 vapic_frame;
	bool ept, ept_ad, mbec;
	u64 npt_tag;               /* TLB tag of the guest's EPT, 0 without */
	bool fresh;                /* caches match s and RAM */
	bool passed, passed_long;  /* controls and host's state in f have passed their checks; with the host in IA-32e mode */
	bool passed_guest;         /* and with it the guest's state in f, in a way that vmx_checks_again() may build on; see entry.c */
	bool guest_segs_exact;     /* guest_segs is what the guest's state in f loads, and saving it would store what f has */
	bool host_segs_made;       /* host_segs is what the host's state in f loads */
	struct vmx_segs guest_segs, host_segs;
	u32 bound_remaps;          /* mem->remaps when the pointers above were made */
	u64 short_entries;         /* VM entries that built on it */

	struct pending_exit pend;
	struct exit_info x;        /* for the exit being made; all zero between exits */
	u64 iret_rip, iret_icount; /* last IRET that removed NMI blocking */
	bool iret_unblocked;
	struct nest nest;          /* its head is used at each exit, as what is before it */
	struct isa_decoder dec;    /* for instruction lengths of EPT exits */

	struct vmx_caps caps;
	u64 phys_mask;             /* bits above MAXPHYADDR */
	u64 failures;
	struct vmx_failure failure[VMX_FAILURES]; /* ring, by serial */
	u8 said[CHECK_COUNT];      /* checks whose failure was logged already */
	struct vm_written written[VF_COUNT]; /* c->vm_written */
	u16 field_row[VM_FIELD_ROWS]; /* c->vm_field_row */
	u8 *scratch;               /* a page that absorbs accesses to addresses that are not RAM */
	u8 *ones;                  /* a page of ones that is only read */
};

static inline struct vmx *vmx_of(const struct cpu *c) { return c->virt_state; }
static inline bool has(const struct vmx *v, enum vmx_control ctl) { return v->ctl[ctl >> 5] >> (ctl & 31) & 1; }
static inline bool can(const struct vmx *v, enum vmx_control ctl)
{
	return ctl == CTL_ALWAYS || (v->caps.allowed1[(ctl >> 5) % GROUP_COUNT] >> (ctl & 31) & 1);
}

/* Member by member: a copy of a whole struct would wait for the parts to be stored. */
static inline void vmx_set_seg(struct seg *s, u64 sel, u64 base, u64 limit, u64 attr)
{
	s->base = base;
	s->limit = (u32)limit;
	s->attr = (u32)attr;
	s->sel = (u16)sel;
}

/* The CPU's, copied and compared in pieces that were stored as such: wider loads would wait for narrower stores. */
static inline struct vmx_segs *vmx_segs_of(struct cpu *c) { return (struct vmx_segs *)c->arch.seg; }
typedef u64 vmx_piece __attribute__((vector_size(16), aligned(8), may_alias));
static inline void vmx_copy_segs(struct vmx_segs *to, const struct vmx_segs *from)
{
#pragma GCC unroll 14
	for (unsigned n = 0; n < sizeof *to / sizeof(vmx_piece); n++)
		((vmx_piece *)to)[n] = ((const vmx_piece *)from)[n];
}
static inline bool vmx_segs_differ(const struct vmx_segs *a, const struct vmx_segs *b)
{
	vmx_piece differ = { 0, 0 };
#pragma GCC unroll 14
	for (unsigned n = 0; n < sizeof *a / sizeof(vmx_piece); n++)
		differ |= ((const vmx_piece *)a)[n] ^ ((const vmx_piece *)b)[n];
	return differ[0] | differ[1];
}

/* ---- vmcs.c ---- */
u8 *vmx_page(struct cpu *c, u64 at, i64 *frame); /* host address of a page of RAM, or the scratch page with *frame -1 */
void vmx_page_written(struct cpu *c, i64 frame, unsigned off, unsigned len);
void vmcs_offer(struct cpu *c);                      /* to engines that do VMREAD and VMWRITE themselves: v->vmcs has changed */
void vmcs_find_rows(struct cpu *c);
void vmcs_changed(struct cpu *c);                    /* the page may hold other values than VM entry has read */
void vmx_set_vmcs(struct cpu *c, u64 at);            /* VMCS_NONE: no current VMCS */
void vmcs_put(struct cpu *c, enum vmcs_slot s, u64 v); /* guest mode: cache and page */
void vmx_refresh(struct cpu *c);                     /* rebuild caches after a state load */
u64 vmcs_mask(enum vmcs_slot s);
static inline struct vmx *vmx_fresh(struct cpu *c)
{
	struct vmx *v = vmx_of(c);
	if (unlikely(!v->fresh))
		vmx_refresh(c);
	return v;
}

/* ---- caps.c ---- */
void vmx_caps_init(struct cpu *c);
bool vmx_rdmsr(struct cpu *c, u32 msr, u64 *value, bool *ok);
bool vmx_wrmsr(struct cpu *c, u32 msr, u64 value, bool *ok);

/* ---- operand.c ---- */
u64 vmx_ea(const struct cpu *c, const struct insn *i);       /* offset within the segment */
u64 vmx_linear(const struct cpu *c, const struct insn *i);   /* with the segment's base */
bool vmx_read_mem(struct cpu *c, const struct insn *i, void *to, unsigned size); /* false: cpu->fault is set */
bool vmx_write_mem(struct cpu *c, const struct insn *i, const void *from, unsigned size);

/* ---- insn.c ---- */
enum step vmx_insn(struct cpu *c, const struct insn *i);
void vmx_succeed(struct cpu *c);
enum step vmx_fail(struct cpu *c, enum vmx_error e); /* VMfailValid, or VMfailInvalid without a VMCS or error */

/* ---- check.c ---- */
struct check_ctx {
	struct cpu *c;
	struct vmx *v;
	const u64 *f;
	bool long_mode;   /* the host is in IA-32e mode at VM entry */
	bool unrestricted;
	u64 phys;         /* bits that must be 0 in a physical address */
	u64 pdpte[4];     /* guest PDPTEs, when has_pdptes */
	bool has_pdptes;
	u32 link_word;    /* first word of the VMCS at the link pointer */
};
/* True when all checks of the group hold. False: *fail is filled (check, field, value, bad). */
bool vmx_checks(struct check_ctx *k, enum vmx_check_group group, struct vmx_failure *fail);
void vmx_check_init(struct check_ctx *k, struct cpu *c);
/* The guest's checks, when all have passed with other values of VMX_MOVING fields and the same of everything else: those that are not the same again. For
 * guests without virtual-8086 mode, PAE paging, VMCS link pointer and injected event. */
bool vmx_checks_again(const struct check_ctx *k, struct vmx_failure *fail);
/* The same, when of all fields that a row reads none but RIP has another value. */
bool vmx_checks_rip(const struct check_ctx *k, struct vmx_failure *fail);
/* Fields of the guest's state that differ at nearly every VM entry, or whose checks depend on little. A row of checks.def that reads one of them must blame one
 * of them, or apply only in a case that vmx_checks_again() excludes. One that reads RIP must blame RIP; none reads RSP, the timer, or arithmetic flags. */
#define VMX_MOVING(M) \
	M(GUEST_RIP) M(GUEST_RSP) M(GUEST_RFLAGS) M(GUEST_CR3) M(GUEST_FS_BASE) M(GUEST_GS_BASE) M(GUEST_PENDING_DBG) M(GUEST_INTERRUPTIBILITY) \
	M(GUEST_ACTIVITY) M(PREEMPTION_TIMER) M(GUEST_INTR_STATUS) M(PML_INDEX)
#define MOVING_BIT(field) (1ull << (VF_##field - VMCS_FIRST_GUEST)) |
#define VMX_MOVING_BITS (VMX_MOVING(MOVING_BIT) 0)
_Static_assert(VMCS_END_GUEST - VMCS_FIRST_GUEST <= 64, "a bit for each field");
u64 vmx_check_qualification(enum vmx_check row);
void vmx_report_failure(struct cpu *c, struct vmx_failure *fail, u64 vmcs);

/* ---- entry.c, exit.c, msrlist.c ---- */
enum step vmx_enter(struct cpu *c, bool launch);
void vmx_bind_guest(struct cpu *c);  /* derive the guest-mode caches from v->f */
void vmx_exit(struct cpu *c, u32 reason, u64 qualification);   /* complete VM exit; v->x says the rest */
void vmx_exit_insn(struct cpu *c, u32 reason, u64 qualification, const struct insn *i, u32 info);
void vmx_load_host(struct cpu *c);
u64 vmx_cr0_merge(u64 now, u64 wanted);            /* CR0 as VM entry and exit load it */
void vmx_abort(struct cpu *c, u32 code, const char *why);
u32 vmx_entry_msrs(struct cpu *c, struct vmx_failure *fail); /* 0, or the 1-based number of the entry that failed */
bool vmx_exit_store_msrs(struct cpu *c);
bool vmx_exit_load_msrs(struct cpu *c);
void vmx_set_vectoring(struct cpu *c, const struct event *during);
u32 vmx_event_info(const struct event *ev);        /* interruption-information format, bit 31 set; 0 for no event */
u64 vmx_timer_now(const struct cpu *c);            /* raw TSC >> VMX_TIMER_SHIFT */

/* ---- icept.c, info.c ---- */
bool vmx_icept(struct cpu *c, enum icept what, const struct insn *i, u64 a, u64 b);
u32 vmx_info_mem(const struct insn *i, u32 reg2, bool has_reg2);  /* INVEPT, VMCLEAR, XSAVES... */
u32 vmx_info_table(const struct cpu *c, const struct insn *i, unsigned which);   /* SGDT.. */
u32 vmx_info_ldtr(const struct insn *i, unsigned which);
u32 vmx_info_vmaccess(const struct insn *i, u32 reg1, u32 reg2);  /* VMREAD, VMWRITE */
u32 vmx_info_rdrand(const struct insn *i);
u32 vmx_info_string_io(const struct insn *i);
u64 vmx_info_disp(const struct cpu *c, const struct insn *i);

/* ---- event.c, poll.c ---- */
bool vmx_event(struct cpu *c, const struct event *ev, const struct event *during);
void vmx_triple_fault(struct cpu *c);
void vmx_take_exit(struct cpu *c, const struct event *during);
bool vmx_init_signal(struct cpu *c);
bool vmx_sipi(struct cpu *c, unsigned vector);
bool vmx_poll(struct cpu *c);
bool vmx_poll_waits(const struct cpu *c);
u64 vmx_deadline(const struct cpu *c);
void vmx_want_exit(struct cpu *c, u32 reason, u64 qualification); /* record for EVENT_VIRT, set cpu->fault */

/* ---- ept.c ---- */
bool vmx_npt_walk(struct cpu *c, l2gpa_t at, u32 acc, enum npt_use use, bool la_valid, gva_t la, struct npt_page *out);
bool vmx_eptp_ok(const struct vmx *v, u64 eptp);   /* the checks on EPTP of VM entry, for INVEPT and EPTP switching */
u64 vmx_npt_tag(const struct vmx *v, u64 eptp);
void vmx_flush_eptp(struct cpu *c, u64 eptp);      /* INVEPT single context */
bool vmx_make_ve(struct cpu *c,
		 const struct pending_exit *p); /* deliver #VE instead of the exit; false: the area is busy */

/* ---- apicv.c ---- */
u64 vmx_apic_access_page(const struct cpu *c);
bool vmx_virtual_apic(struct cpu *c, u32 off, unsigned size, bool write, bool fetch, u64 *value, gva_t la);
bool vmx_x2apic(struct cpu *c, u32 msr, bool write, u64 *value, bool *ok);
bool vmx_cr8(struct cpu *c, bool write, u64 *value);
void vmx_apic_emulate_write(struct cpu *c);        /* due APIC-write emulation; may leave exits due */
void vmx_apic_entry(struct cpu *c);                /* VM entry's part: PPR, pending virtual interrupts, TPR threshold */
bool vmx_virt_intr_ready(const struct cpu *c);     /* recognised, and nothing blocks it now */
void vmx_virt_intr_deliver(struct cpu *c);
void vmx_posted_intr(struct cpu *c);               /* process the descriptor */

#endif
