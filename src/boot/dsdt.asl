/* The board as ACPI tells it; the numbers are board_map.h's. Without BOARD_PS2 no keyboard controller: the FADT says 8042 absent. */
#include "board_map.h"

DefinitionBlock ("dsdt.aml", "DSDT", 2, "NESTBX", "NESTBOX ", 0x00000001)
{
	Name (\_S5, Package (4) { BOARD_SLP_TYP_S5, BOARD_SLP_TYP_S5, 0, 0 })

	Scope (\_SB)
	{
		Device (PCI0)
		{
			Name (_HID, EisaId ("PNP0A08"))
			Name (_CID, EisaId ("PNP0A03"))
			Name (_UID, Zero)
			Name (_BBN, Zero)
			Name (_SEG, Zero)
			Name (_CRS, ResourceTemplate ()
			{
				WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 0, BOARD_ECAM_BUS_LAST, 0, 0x100)
				IO (Decode16, 0xCF8, 0xCF8, 1, 8)
				WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange, 0, 0, 0xCF7, 0, 0xCF8)
				WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange, 0, 0xD00, 0xFFFF, 0, 0xF300)
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
					0, BOARD_PCI32_BASE, BOARD_PCI32_LAST, 0, BOARD_PCI32_SIZE)
			})

			/* PCI Firmware Specification "_OSC Interface for PCI Host Bridge Devices": we leave the OS PME and the
			 * PCIe capability structure; there is no hot-plug controller and no error reporting to hand over. */
			Method (_OSC, 4, Serialized)
			{
				CreateDWordField (Arg3, 0, CDW1)
				If (LEqual (Arg0, ToUUID ("33db4d5b-1ff7-401c-9657-7441c03dd766")))
				{
					CreateDWordField (Arg3, 8, CDW3)
					Store (And (CDW3, 0x14), Local0)
					If (LNotEqual (Arg1, One))
					{
						Or (CDW1, 0x08, CDW1)
					}
					If (LNotEqual (CDW3, Local0))
					{
						Or (CDW1, 0x10, CDW1)
					}
					Store (Local0, CDW3)
				}
				Else
				{
					Or (CDW1, 0x04, CDW1)
				}
				Return (Arg3)
			}

			/* Device d, pin p: GSI 16 + ((d + p) & 7), level, active low. */
#define PRT(slot, a, b, c, d) \
	Package (4) { slot, 0, 0, a }, Package (4) { slot, 1, 0, b }, Package (4) { slot, 2, 0, c }, Package (4) { slot, 3, 0, d }
#define PRT8(s0, s1, s2, s3, s4, s5, s6, s7) \
	PRT (s0, 16, 17, 18, 19), PRT (s1, 17, 18, 19, 20), PRT (s2, 18, 19, 20, 21), PRT (s3, 19, 20, 21, 22), \
	PRT (s4, 20, 21, 22, 23), PRT (s5, 21, 22, 23, 16), PRT (s6, 22, 23, 16, 17), PRT (s7, 23, 16, 17, 18)
			Name (_PRT, Package (128)
			{
				PRT8 (0x0000FFFF, 0x0001FFFF, 0x0002FFFF, 0x0003FFFF, 0x0004FFFF, 0x0005FFFF, 0x0006FFFF, 0x0007FFFF),
				PRT8 (0x0008FFFF, 0x0009FFFF, 0x000AFFFF, 0x000BFFFF, 0x000CFFFF, 0x000DFFFF, 0x000EFFFF, 0x000FFFFF),
				PRT8 (0x0010FFFF, 0x0011FFFF, 0x0012FFFF, 0x0013FFFF, 0x0014FFFF, 0x0015FFFF, 0x0016FFFF, 0x0017FFFF),
				PRT8 (0x0018FFFF, 0x0019FFFF, 0x001AFFFF, 0x001BFFFF, 0x001CFFFF, 0x001DFFFF, 0x001EFFFF, 0x001FFFFF)
			})

			Device (ISA)
			{
				Name (_ADR, 0x001F0000)

				Device (COM1)
				{
					Name (_HID, EisaId ("PNP0501"))
					Name (_UID, One)
					Name (_CRS, ResourceTemplate ()
					{
						IO (Decode16, BOARD_COM1_PORT, BOARD_COM1_PORT, 0, 8)
						IRQNoFlags () { BOARD_IRQ_COM1 }
					})
				}

#ifdef BOARD_PS2
				Device (KBD)
				{
					Name (_HID, EisaId ("PNP0303"))
					Name (_CRS, ResourceTemplate ()
					{
						IO (Decode16, 0x60, 0x60, 1, 1)
						IO (Decode16, 0x64, 0x64, 1, 1)
						IRQNoFlags () { 1 }
					})
				}

				Device (MOU)
				{
					Name (_HID, EisaId ("PNP0F13"))
					Name (_CRS, ResourceTemplate ()
					{
						IRQNoFlags () { 12 }
					})
				}
#endif

				Device (RTC)
				{
					Name (_HID, EisaId ("PNP0B00"))
					Name (_CRS, ResourceTemplate ()
					{
						IO (Decode16, 0x70, 0x70, 1, 2)
						IRQNoFlags () { BOARD_IRQ_RTC }
					})
				}
			}
		}

		Device (HPET)
		{
			Name (_HID, EisaId ("PNP0103"))
			Name (_UID, Zero)
			Name (_CRS, ResourceTemplate ()
			{
				Memory32Fixed (ReadOnly, BOARD_HPET_BASE, 0x400)
			})
		}

		/* What nobody else may be given: ECAM (Linux drops it otherwise) and the PM block. */
		Device (MBRD)
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_UID, Zero)
			Name (_CRS, ResourceTemplate ()
			{
				Memory32Fixed (ReadWrite, BOARD_ECAM_BASE, BOARD_ECAM_SIZE)
				IO (Decode16, BOARD_PM_BASE, BOARD_PM_BASE, 0, BOARD_PM_SIZE)
			})
		}

		Device (FWCF)
		{
			Name (_HID, "QEMU0002")
			Name (_STA, 0x0B)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, BOARD_FW_CFG_PORT, BOARD_FW_CFG_PORT, 1, 12)
			})
		}
	}
}
