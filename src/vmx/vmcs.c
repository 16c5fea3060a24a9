/* The VMCS as a page of guest RAM, and the table of its fields. Surprise: while a guest runs, controls are used from
 * the copy that VM entry took (v->f), so nothing that L1 scribbles on the page later can contradict the checks that
 * were made. */
#include "vmx/priv.h"

const struct field_info vmcs_fields[VF_COUNT] = {
#define FIELD(enc, name_, kind_, gate_) \
	[VF_##name_] = {#name_,	       enc,	    ((enc) >> 13) == 0 ? 2 : ((enc) >> 13) == 2 ? 4 : 8, \
			FIELD_##kind_, CTL_##gate_, ((enc) >> 13) == 3},
#include "vmx/fields.def"
#undef FIELD
};

/* By width (2 bits), type (2 bits), index (6 bits): slot + 1. */
#define SLOT_KEY(enc) ((((enc) >> 13 & 3) << 8) | (((enc) >> 10 & 3) << 6) | ((enc) >> 1 & 0x3f))
static const u16 slot_by_key[1024] = {
#define FIELD(enc, name_, kind_, gate_) [SLOT_KEY(enc)] = VF_##name_ + 1,
#include "vmx/fields.def"
#undef FIELD
};

int vmcs_slot_of(u32 encoding)
{
	/* Bits 9:1 index, 11:10 type, 14:13 width; bit 12 and 31:15 are reserved. */
	if (encoding & 0xffff9000u || (encoding >> 1 & 0x1ff) > 0x3f)
		return -1;
	int slot = slot_by_key[SLOT_KEY(encoding)] - 1;
	/* Only 64-bit fields have a high half. */
	if (slot >= 0 && (encoding & 1) && (encoding >> 13) != 1)
		return -1;
	return slot;
}

const char *vmx_field_name(u32 encoding)
{
	int slot = vmcs_slot_of(encoding);
	return slot < 0 ? NULL : vmcs_fields[slot].name;
}

u64 vmcs_mask(enum vmcs_slot s) { return low_mask(vmcs_fields[s].bytes * 8); }

u8 *vmx_page(struct cpu *c, u64 at, i64 *frame)
{
	const struct mem_slot *slot = mem_slot_at(c->mem, gpa(at & PAGE_MASK));
	u8 *p = slot && slot->kind == MEM_RAM ? mem_ptr(c->mem, gpa(at & PAGE_MASK), PAGE_SIZE) : NULL;

	i64 number = p ? mem_frame(c->mem, gpa(at & PAGE_MASK)) : -1;
	if (p)
		mem_will_write(c->mem, number);
	if (frame)
		*frame = number;
	return p ? p : vmx_of(c)->scratch;
}

/* Our stores to guest RAM bypass mem_write: tell the dirty log and owners of decoded code. */
hot_path void vmx_page_written(struct cpu *c, i64 frame, unsigned off, unsigned len)
{
	if (frame >= 0 && (unlikely(c->mem->dirty_log) || unlikely(mem_code_lines(c->mem, frame))))
		mem_note_write(c->mem, frame, off, len);
}

void vmcs_changed(struct cpu *c) { memset(c->vm_written_part, 1, sizeof c->vm_written_part); }

static const u8 part_of[VF_COUNT] = {
#define PART_CTL(name) VM_PART_ROOT
#define PART_HOST(name) VM_PART_ROOT
#define PART_RO(name) VM_PART_OTHER
#define PART_GUEST(name) (VMX_MOVING_BITS >> (VF_##name - VMCS_FIRST_GUEST) & 1 ? VM_PART_OTHER : VM_PART_GUEST)
#define FIELD(enc, name, kind, gate) [VF_##name] = PART_##kind(name),
#include "vmx/fields.def"
#undef FIELD
};

void vmcs_find_rows(struct cpu *c)
{
	struct vmx *v = vmx_of(c);

	for (unsigned s = 0; s < VF_COUNT; s++)
		if (can(v, vmcs_fields[s].gate) && !(vmcs_fields[s].encoding & ~VM_FIELD_BITS))
			v->field_row[vmcs_fields[s].encoding / 2] = (u16)(s << 2 | (vmcs_fields[s].bytes == 2 ? 1 : vmcs_fields[s].bytes == 4 ? 2 : 3));
	c->vm_field_row = v->field_row;
	c->vm_written = v->written;
	c->vm_field_part = part_of;
}

void vmcs_offer(struct cpu *c)
{
	struct vmx *v = vmx_of(c);

	c->vm_fields = v->vmcs && !trace_on(TRACE_VMX) ? v->vmcs->f : NULL;
	c->vm_code = c->vm_fields && v->vmcs_frame >= 0 ? &c->mem->code_lines[v->vmcs_frame] : NULL;
	c->vm_ptr = v->s.vmcs_ptr;
}

void vmx_set_vmcs(struct cpu *c, u64 at)
{
	struct vmx *v = vmx_of(c);

	v->s.vmcs_ptr = at;
	if (at == VMCS_NONE) {
		v->vmcs = NULL;
		v->vmcs_frame = -1;
	} else {
		v->vmcs = (struct vmcs *)vmx_page(c, at, &v->vmcs_frame);
	}
	vmcs_offer(c);
	vmcs_changed(c);
}

void vmcs_put(struct cpu *c, enum vmcs_slot s, u64 value)
{
	struct vmx *v = vmx_of(c);

	v->f[s] = value;
	v->passed_guest = false; /* v->f is not what was compared */
	if (s < VMCS_FIRST_GUEST)
		v->passed = v->host_segs_made = false;
	vmcs_set(v->vmcs, s, value);
}

/* After a snapshot was loaded: everything derived comes back from the saved rows and guest RAM. */
void vmx_refresh(struct cpu *c)
{
	struct vmx *v = vmx_of(c);

	v->fresh = true;
	v->passed = v->passed_guest = v->host_segs_made = false;
	vmx_set_vmcs(c, v->s.on ? v->s.vmcs_ptr : VMCS_NONE);
	if (!c->arch.guest_mode)
		return;
	if (!v->vmcs) /* a damaged snapshot: leave something harmless */
		v->vmcs = (struct vmcs *)v->scratch;
	for (unsigned s = 0; s < VF_COUNT; s++)
		v->f[s] = vmcs_get(v->vmcs, s) & vmcs_mask(s);
	vmx_bind_guest(c);
}
